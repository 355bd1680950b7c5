"use strict";
// Lets the map fill in while cells are finished; progress, verdicts and learning curves come as they are ready.

const name = at("progress").dataset.name;
let version = data.version, analysed = null, curvesWanted = false, asked = 0;

function redraw() {
  for (const key of Object.keys(sortedOf)) delete sortedOf[key];
  [low, high] = picked.range;
  for (const view of views) {
    view.marks.replaceChildren();
    mark(view);
    drawLines(view);
    paint(view);
  }
  drawBar();
  byId("flags").replaceChildren();
  addFlagLegend();
  if (!pins.length) for (const view of views) if (view.p.best.length) addPin(view, ...view.p.best[0]);
  drawPlots();
}

// The measures with their limits; those that came with the first cells are added to the choice.
function takeMeasures(measures) {
  const shown = byId("measure").value;
  Object.assign(picked, measures[0]);
  data.measures.splice(1, data.measures.length, ...measures.slice(1));
  byId("measure").replaceChildren();
  addMeasures();
  byId("measure").value = shown;
}

function take(change) {
  if (change.reload) return loadAgain();
  version = change.version;
  data.flags = change.flags;
  takeMeasures(change.measures);
  change.panels.forEach(({ cells, best, flags }, k) => {
    Object.assign(panels[k], { best, flags });
    for (const [i, j, fields, measures] of cells) {
      for (const [field, value] of Object.entries(fields)) panels[k][field][i][j] = value;
      for (const [key, value] of Object.entries(measures)) panels[k].measures[key][i][j] = value;
    }
  });
  redraw();
  if (curvesWanted) loadCurves();
}

async function loadAgain() {
  const fresh = await ask(studyPath(name, "/map"));
  const shape = (all) => JSON.stringify(all.map((p) => [p.name, p.row_labels, p.col_labels]));
  if (shape(fresh.data.panels) !== shape(panels)) return location.reload();
  version = fresh.version;
  data.flags = fresh.data.flags;
  takeMeasures(fresh.data.measures);
  fresh.data.panels.forEach((p, k) => {
    const { valley, verdict } = panels[k];
    Object.assign(panels[k], p, { valley, verdict, error: p.measures[picked.key] });
  });
  redraw();
  if (curvesWanted) loadCurves();
}

async function loadCurves() {
  curvesWanted = true;
  allCurves = await ask(studyPath(name, "/curves"));
  drawPlots();
}

function status(now) {
  at("bar-done").max = now.cells;
  at("bar-done").value = now.complete;
  const parts = [`${now.complete} of ${now.cells} cells are finished`];
  if (now.running) parts.push(`${now.running} running`);
  if (now.failed) parts.push(`${now.failed} failed`);
  if (now.cells_per_minute) parts.push(`${now.cells_per_minute} cells a minute`);
  if (now.complete < now.cells && now.seconds_left) parts.push(span(now.seconds_left));
  if (now.memory_mib) parts.push(`${Math.round(now.memory_mib)} MiB of memory`);
  if (now.preparing) parts.push(now.preparing);
  at("progress-is").textContent = parts.join(" · ");
  at("turn").replaceChildren();
  if (now.queue) {
    at("turn").append(`In the queue: ${now.queue}. `);
    made("a", at("turn"), "Queue").href = "/queue";
  }
  if (!now.running && !now.waiting || now.complete && Date.now() - asked > 60_000) analyse(now);
}

async function analyse(now) {
  if (analysed === version || !now.complete) return;
  [analysed, asked] = [version, Date.now()];
  if (!at("verdicts").querySelector("strong")) at("verdicts").firstElementChild.textContent = "The verdict and its intervals are being computed …";
  let found;
  try { found = await ask(studyPath(name, "/analysis")); } catch (error) { analysed = null; return; }
  at("verdicts").replaceChildren();
  for (const row of found.panels) {
    const view = views.find((one) => one.p.name === row.panel), line = made("p", at("verdicts"), undefined, { className: "verdict" });
    made("strong", line, view.p.title);
    line.append(` ${row.sentence || row.verdict}`);
    for (const alarm of row.alarms || []) made("p", at("verdicts"), `${view.p.title}: ${alarm.text || alarm}`, { className: "alarm" });
    let said = view.box.querySelector(".said");
    if (!said) view.box.querySelector("h3").after(said = Object.assign(document.createElement("p"), { className: "said" }));
    said.textContent = row.verdict;
  }
}

async function loadFailures() {
  const { failures } = await ask(studyPath(name));
  at("failures-section").hidden = !failures.length;
  at("failures").tBodies[0].replaceChildren();
  for (const one of failures) {
    const row = made("tr", at("failures").tBodies[0]);
    for (const text of [one.panel, `${one.row}, ${one.col}`, one.seed, one.why]) made("td", row, text);
  }
}

let failed = null;
listen(() => `${studyPath(name, "/events")}?version=${encodeURIComponent(version)}`, {
  status: (now) => {
    status(now);
    if (failed !== null && failed !== now.failed) loadFailures();
    failed = now.failed;
  },
  cells: take,
  version: (found) => { if (found.version !== version) loadAgain(); },
  reload: loadAgain,
});

(window.requestIdleCallback || setTimeout)(loadCurves, { timeout: 300 });
document.documentElement.dataset.live = "yes";
