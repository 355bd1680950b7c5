"use strict";
// Learning curves of the pinned cells, profiles through the chosen one, and the start of the page.

let allCurves = null; // read when first needed: it is most of the file
let chosen = null; // [panel, row, column] whose profiles are shown
let awake = false; // whether plots are drawn

function curvesOf(p) {
  allCurves ??= JSON.parse(byId("curve-data").textContent);
  return allCurves[p.name] || { epochs: [], kinds: [], trials: {} };
}

const QUIET = { displayModeBar: false, responsive: true };

// Loading Plotly takes a browser a third of a second to two seconds, so it is loaded once the maps can be read.
// It is in the page or, where wdgrid serves the page, a file of its own. Returns whether it is there.
function wakePlotly() {
  if (window.Plotly) return true;
  const packed = byId("plotly"), script = document.createElement("script");
  if (packed.dataset.src) {
    if (!packed.dataset.asked) document.head.append(Object.assign(script, { src: packed.dataset.src, onload: drawPlots }));
    packed.dataset.asked = "yes";
    return false;
  }
  script.textContent = packed.textContent;
  document.head.append(script);
  return true;
}

const paper = () => ({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, font: { color: theme("ink"), size: 12 },
});

function axes(x, y) {
  const line = { gridcolor: theme("line"), linecolor: theme("line"), zeroline: false, fixedrange: true, automargin: true };
  return {
    ...paper(), margin: { l: 56, r: 12, t: 8, b: 48 }, hovermode: "closest", xaxis: { ...line, ...x }, yaxis: { ...line, ...y },
    hoverlabel: { bgcolor: theme("raised"), bordercolor: theme("line"), font: { color: theme("ink") } },
  };
}

const LOG_TICKS = [-4, -3, -2, -1, 0, 1, 2].flatMap((k) => [1, 1.5, 2, 3, 5, 7].map((m) => Number(`${m}e${k}`)));

const shown = () => pins.filter(({ view }) => !view.box.hidden); // pins of the budget that is looked at

const pinName = ({ view, i, j }) => `${view.p.title}: ${view.p.row_labels[i]}, ${view.p.col_labels[j]}`;

// The legend: one button per pinned cell, which unpins it.
function listPins() {
  byId("pins").replaceChildren();
  for (const one of shown()) {
    const button = element("button", "chip", byId("pins"), `${pinName(one)} ×`);
    button.type = "button";
    Object.assign(button.style, { borderLeftColor: one.colour, borderLeftStyle: one.dash });
    button.setAttribute("aria-label", `Unpin ${pinName(one)}`);
    button.addEventListener("click", () => { unpin(one); drawPlots(); });
  }
}

function drawCurves() {
  const kind = byId("kind").value, words = byId("kind").selectedOptions[0].textContent;
  const drawn = shown().flatMap(({ view, i, j, colour, dash }) => {
    const { epochs, kinds, trials } = curvesOf(view.p), k = kinds.indexOf(kind);
    const name = pinName({ view, i, j });
    return view.p.trials[i][j].filter(([, number]) => k >= 0 && trials[number]).map(([seed, number, error], at) => ({
      type: "scatter", mode: trials[number][k].length > 1 ? "lines" : "markers", x: epochs, y: trials[number][k], line: { color: colour, width: 2, dash: DASHES[dash] }, marker: { color: colour }, opacity: at ? 0.6 : 1,
      hovertemplate: `${name}, seed ${seed}${error === null ? " (diverged)" : ""}<br>epoch %{x}: %{y:.4g}<extra></extra>`,
    }));
  });
  const shape = axes({ title: { text: "epoch" } }, { title: { text: `${words}, log scale` }, type: "log", tickvals: LOG_TICKS });
  const some = shown().some(({ view }) => curvesOf(view.p).epochs.length);
  const said = some || !shown().length ? "Pin a cell to see its learning curve." : "No learning curves are stored.";
  const note = { text: said, xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false };
  Plotly.react(byId("curves"), drawn, {
    ...shape, annotations: drawn.length ? [] : [note],
  }, QUIET);
}

// One slice of a panel: mean with its spread, every seed as a dot, a cross at the top edge where a cell diverged.
function drawProfile(id, p, cells, labels, ticks, title, here) {
  const value = (k) => p.error[cells[k][0]][cells[k][1]];
  const end = Math.max(high, value(here) ?? high), top = end + 0.06 * (end - low), ink = theme("ink");
  const at = (test) => cells.map((_, k) => k).filter((k) => test(...cells[k]));
  const fine = at((i, j) => p.error[i][j] !== null), blown = at((i, j) => p.diverged[i][j] > 0);
  const dots = fine.flatMap((k) => p.trials[cells[k][0]][cells[k][1]].map((t) => [k, t[2], t[0]]));
  const y = cells.map(([i, j]) => p.error[i][j]);
  const spread = cells.map(([i, j]) => p.spread[i][j] ?? 0);
  const text = cells.map(([i, j]) => describe(p, i, j).slice(1).join("<br>"));
  const drawn = [
    { type: "scatter", mode: "lines+markers", x: cells.map((_, k) => k), y, text, line: { color: "#3a86c8", width: 2 }, marker: { size: 6 },
      error_y: { type: "data", array: spread, visible: data.seeds > 1, thickness: 1.2 }, hovertemplate: "%{text}<extra></extra>" },
    { type: "scatter", mode: "markers", x: blown, y: blown.map(() => top), text: blown.map((k) => text[k]),
      marker: { symbol: "x-thin-open", size: 9, color: ink, line: { width: 1.5, color: ink } }, hovertemplate: "%{text}<extra></extra>" },
  ];
  if (data.seeds > 1)
    drawn.push({ type: "scatter", mode: "markers", x: dots.map((d) => d[0]), y: dots.map((d) => d[1]), text: dots.map((d) => `seed ${d[2]}`),
      marker: { size: 4, color: ink, opacity: 0.6 }, hovertemplate: "%{text}: %{y:.2f} %<extra></extra>" });
  if (fine.includes(here) || blown.includes(here))
    drawn.push({ type: "scatter", mode: "markers", x: [here], y: [value(here) ?? top], hoverinfo: "skip",
      marker: { symbol: "circle-open", size: 15, color: ink, line: { width: 2, color: ink } } });
  const x = { title: { text: title }, tickvals: ticks, ticktext: ticks.map((k) => labels[k]), range: [-0.5, labels.length - 0.5] };
  const range = [low - 0.06 * (end - low), end + 0.12 * (end - low)];
  Plotly.react(byId(id), drawn, axes(x, { title: { text: picked.label }, range }), QUIET);
}

function drawProfiles(p, i, j) {
  drawProfile("along-row", p, p.col_labels.map((_, k) => [i, k]), p.col_labels, p.col_ticks, p.col_title, j);
  // From the smallest to the largest value, as readers expect of a horizontal axis.
  const last = p.row_labels.length - 1, upward = p.row_labels.map((_, k) => last - k);
  const cells = upward.map((k) => [k, j]), labels = upward.map((k) => p.row_labels[k]);
  drawProfile("along-column", p, cells, labels, p.row_ticks.map((k) => last - k), p.row_title, last - i);
}

// Updates what depends on pins and the chosen cell: the text at once, the plots once they are awake.
function drawPlots() {
  const [p, i, j] = chosen;
  listPins();
  byId("chosen").textContent = `${p.title}: ${place(p, i, j)}`;
  if (!awake || !wakePlotly()) return;
  drawCurves();
  drawProfiles(p, i, j);
}

function wake() {
  if (awake) return;
  awake = true;
  drawPlots();
}

// Paper has another width than the window: plots are drawn, if they were not, and become pictures that the style scales.
function fitPaper() {
  wake();
  for (const picture of document.querySelectorAll(".plot .main-svg")) {
    const [width, height] = [picture.width.baseVal.value, picture.height.baseVal.value];
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.closest(".plot").style.setProperty("--shape", `${width} / ${height}`);
  }
}

function fitWindow() {
  for (const picture of document.querySelectorAll(".plot .main-svg")) picture.removeAttribute("viewBox");
}

function start() {
  if (byId("picture")) byId("picture").hidden = true;
  for (const part of [byId("live"), ...document.querySelectorAll(".live")]) part.hidden = false;
  byId("lines-label").hidden = !(rateIsRow || rateIsColumn);
  byId("panels").style.setProperty("--columns", data.columns[panels.length]);
  addMeasures();
  addTerms();
  panels.forEach(addPanel);
  drawBar();
  addFlagLegend();
  for (const view of views) if (view.p.best.length) addPin(view, ...view.p.best[0]);
  const first = views.find((v) => v.p.best.length) || views[0];
  chosen = [first.p, ...first.at];
  addBudget();
  drawPlots();
  for (const id of ["measure", "scale"]) byId(id).addEventListener("change", () => { views.forEach(paint); drawBar(); });
  byId("lines").addEventListener("change", () => { views.forEach(drawLines); byId("lines-are").textContent = LINES_ARE[byId("lines").value]; });
  byId("kind").addEventListener("change", drawPlots);
  byId("clear").addEventListener("click", () => { [...pins].forEach(unpin); drawPlots(); });
  dark.addEventListener("change", () => { views.forEach(paint); drawPlots(); });
  addEventListener("beforeprint", fitPaper);
  addEventListener("afterprint", fitWindow);
  document.documentElement.dataset.ready = "yes";
  performance.mark("ready");
}

start();
// Curves and Plotly stand at the end of the file.
addEventListener("DOMContentLoaded", () => (window.requestIdleCallback || setTimeout)(wake, { timeout: 300 }));
