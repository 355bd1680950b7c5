"use strict";
// The heatmaps: one canvas pixel per cell, marks in SVG, all positions in percent of the panel. So neither resizing nor
// hovering redraws anything, and the heatmaps are interactive before Plotly (see plots.js) is loaded.

const views = []; // one per panel: { p, box, canvas, marks, surface, cursor, at }
const pins = []; // { view, i, j, colour, dash, mark }
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c564b", "#7f7f7f"];
const DASHES = { solid: "solid", dashed: "dash", dotted: "dot" }; // CSS's words and Plotly's, once colours are used up
const dark = matchMedia("(prefers-color-scheme: dark)");

const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const shades = data.shades.map(([, hex]) => rgb(hex));

function element(tag, className, parent, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function svg(tag, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
}

function shade(share) {
  const at = Math.max(0, Math.min(1, share)) * (shades.length - 1), k = Math.min(shades.length - 2, Math.floor(at));
  return shades[k].map((from, c) => Math.round(from + (shades[k + 1][c] - from) * (at - k)));
}

const shownMeasure = () => data.measures.find(({ key }) => key === byId("measure").value) || picked;

// The colours of a panel's cells; diverged and missing ones have colours of their own on every scale.
function paint({ p, canvas }) {
  const measure = shownMeasure();
  const { of, limits } = scaleOf(byId("scale").value, measure), context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const diverged = rgb(theme("diverged")), missing = rgb(theme("untrained"));
  const colour = (e, i, j) => {
    if (e !== null) return shade((of(e) - limits[0]) / (limits[1] - limits[0]));
    return p.diverged[i][j] ? diverged : missing;
  };
  p.error.forEach((row, i) => row.forEach((_, j) => {
    image.data.set([...colour(valueOf(p, measure.key, i, j), i, j), 255], 4 * (i * canvas.width + j));
  }));
  context.putImageData(image, 0, 0);
}

// Marks of cells that went wrong with a finite error, relative to the middle of a cell. They differ in shape and are
// white with a black edge, so that they are visible on every colour.
const GLYPHS = {
  "late blow-up": "m0 -0.21l0.053 0.137 0.147 0.008 -0.114 0.093 0.037 0.142 -0.123 -0.08 -0.123 0.08 0.037 -0.142 -0.114 -0.093 0.147 -0.008z",
  "stuck at chance": "m-.17-.05h.34v.1h-.34z",
  spike: "m-.17 .14l.17-.3l.17 .3z",
};

function glyphs(parent, kind, cells) {
  const d = cells.map(([i, j]) => `M${j + 0.5} ${i + 0.5}${GLYPHS[kind]}`).join("");
  svg("path", { class: "flag", d, "data-kind": kind }, parent);
}

// Marks the cells of each class. A cell shows the worst class of its seeds; a diverged cell shows a cross.
function drawFlags({ p, marks }) {
  const taken = p.diverged.map((row) => row.map((n) => n > 0));
  for (const [kind, { seeds }] of Object.entries(p.flags)) {
    const cells = [];
    seeds.forEach((row, i) => row.forEach((n, j) => { if (n && !taken[i][j]) { cells.push([i, j]); taken[i][j] = true; } }));
    glyphs(marks, kind, cells);
  }
}

function addFlagLegend() {
  for (const kind of data.flags) {
    const sample = svg("svg", { viewBox: "0.2 0.2 0.6 0.6", class: "sample", "aria-hidden": "true" }, byId("flags"));
    glyphs(sample, kind, [[0, 0]]);
    byId("flags").append(`${kind} `);
  }
}

// Circles, crosses and hatches, in units of cells.
function mark({ p, marks }) {
  let crosses = "", hatches = "";
  p.done.forEach((row, i) => row.forEach((done, j) => {
    if (p.diverged[i][j]) crosses += `M${j + 0.35} ${i + 0.35}l.3 .3m0-.3l-.3 .3`;
    if (!done) hatches += `M${j} ${i + 0.5}l.5-.5M${j} ${i + 1}l1-1M${j + 0.5} ${i + 1}l.5-.5`;
  }));
  svg("path", { class: "hatches", d: hatches }, marks);
  svg("path", { class: "crosses", d: crosses }, marks);
  drawFlags({ p, marks });
  if (p.valley && p.valley[0].length) {
    const [rows, middle, low, high] = p.valley, line = (cols) => rows.map((row, k) => `${cols[k]},${row}`);
    svg("polygon", { class: "valley-band", points: [...line(low), ...line(high).reverse()].join(" ") }, marks);
    for (const name of ["valley-edge", "valley"]) svg("polyline", { class: name, points: line(middle).join(" ") }, marks);
  }
  for (const [i, j] of p.best)
    for (const name of ["best-edge", "best"]) svg("ellipse", { class: name, cx: j + 0.5, cy: i + 0.5, rx: 0.33, ry: 0.33 }, marks);
}

function drawLines({ p, marks, surface }) {
  marks.querySelectorAll(".iso").forEach((line) => line.remove());
  surface.querySelectorAll(".iso-text").forEach((text) => text.remove());
  for (const { points, text } of isoLines(p, byId("lines").value)) {
    svg("polyline", { class: "iso", points: points.map(([x, y]) => `${x + 0.5},${y + 0.5}`).join(" ") }, marks);
    const [x, y] = points.at(-1), label = element("span", "iso-text", surface, text);
    label.style.left = `clamp(2.1em, ${(100 * (x + 0.5)) / p.col_labels.length}%, 100% - 2.1em)`;
    label.style.top = `${(100 * (y + 0.5)) / p.row_labels.length}%`;
  }
}

// Tick labels beside the cells they name; `side` is the edge they are measured from.
function ticks(parent, labels, at, side) {
  const longest = Math.max(...at.map((k) => labels[k].length));
  parent.style[side === "top" ? "width" : "height"] = `${side === "top" ? longest + 1 : 0.75 * longest + 1.2}ch`;
  for (const k of at) element("span", "", parent, labels[k]).style[side] = `${(100 * (k + 0.5)) / labels.length}%`;
}

function put(node, p, i, j) {
  const rows = p.row_labels.length, cols = p.col_labels.length;
  const sides = { left: j / cols, top: i / rows, width: 1 / cols, height: 1 / rows };
  for (const [side, share] of Object.entries(sides)) node.style[side] = `${100 * share}%`;
}

function cellAt(view, event) {
  const box = view.surface.getBoundingClientRect();
  const within = (at, size, count) => Math.max(0, Math.min(count - 1, Math.floor((at / size) * count)));
  return [
    within(event.clientY - box.top, box.height, view.p.row_labels.length),
    within(event.clientX - box.left, box.width, view.p.col_labels.length),
  ];
}

// Shows a text beside a box, within the window.
function tell(text, box, left = box.left) {
  const tip = byId("tip");
  tip.textContent = text;
  tip.hidden = false;
  const above = box.bottom + 8 + tip.offsetHeight > innerHeight;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - tip.offsetWidth - 6))}px`;
  tip.style.top = `${above ? Math.max(4, box.top - tip.offsetHeight - 8) : box.bottom + 8}px`;
}

function point(view, i, j, say) {
  view.at = [i, j];
  put(view.cursor, view.p, i, j);
  view.cursor.hidden = false;
  const lines = describe(view.p, i, j), cell = view.cursor.getBoundingClientRect();
  tell(lines.join("\n"), cell, cell.right + 10);
  if (say) byId("status").textContent = lines.join("; ");
}

function leave(view) {
  view.cursor.hidden = true;
  byId("tip").hidden = true;
}

function addPin(view, i, j) {
  const free = Object.keys(DASHES).flatMap((dash) => COLOURS.map((colour) => ({ colour, dash })));
  const { colour, dash } = free.find((f) => !pins.some((q) => q.colour === f.colour && q.dash === f.dash)) || free[0];
  const mark = element("div", "pin", view.surface);
  Object.assign(mark.style, { borderColor: colour, borderStyle: dash });
  put(mark, view.p, i, j);
  pins.push({ view, i, j, colour, dash, mark });
}

function unpin(one) {
  pins.splice(pins.indexOf(one), 1);
  one.mark.remove();
}

function togglePin(view, i, j) {
  const known = pins.find((q) => q.view === view && q.i === i && q.j === j);
  if (known) unpin(known);
  else addPin(view, i, j);
  chosen = [view.p, i, j];
  drawPlots();
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function press(view, event) {
  const rows = view.p.row_labels.length, cols = view.p.col_labels.length;
  const [i, j] = view.at;
  if (event.key === "Enter" || event.key === " ") togglePin(view, i, j);
  else if (event.key === "Home") point(view, i, 0, true);
  else if (event.key === "End") point(view, i, cols - 1, true);
  else if (event.key === "Escape") leave(view);
  else if (MOVES[event.key]) {
    const [down, right] = MOVES[event.key];
    point(view, Math.max(0, Math.min(rows - 1, i + down)), Math.max(0, Math.min(cols - 1, j + right)), true);
  } else return;
  event.preventDefault();
}

function addPanel(p) {
  const rows = p.row_labels.length, cols = p.col_labels.length;
  const box = element("div", "panel", byId("panels"));
  element("h3", "", box, p.title);
  if (p.verdict) element("p", "said", box, p.verdict);
  const chart = element("div", "chart", box);
  element("div", "y-title", chart, p.row_title);
  ticks(element("div", "y-ticks", chart), p.row_labels, p.row_ticks, "top");
  const frame = element("div", "frame", chart);
  frame.style.aspectRatio = Math.max(0.7, Math.min(2, cols / rows));
  ticks(element("div", "x-ticks", chart), p.col_labels, p.col_ticks, "left");
  element("div", "x-title", chart, p.col_title);
  const canvas = element("canvas", "", frame);
  [canvas.width, canvas.height] = [cols, rows];
  const marks = svg("svg", { viewBox: `0 0 ${cols} ${rows}`, preserveAspectRatio: "none", "aria-hidden": "true" }, frame);
  marks.style.setProperty("--ring", Math.max(rows, cols) > 24 ? "1px" : "2px");
  const surface = element("div", "surface", frame), cursor = element("div", "cursor", surface);
  cursor.hidden = true;
  surface.tabIndex = 0;
  surface.setAttribute("role", "application");
  surface.setAttribute("aria-label", `Heatmap ${p.title}. Arrow keys move from cell to cell, Enter pins the cell.`);
  const view = { p, box, canvas, marks, surface, cursor, at: p.best[0] || [0, 0] };
  views.push(view);
  surface.addEventListener("pointermove", (event) => point(view, ...cellAt(view, event), false));
  surface.addEventListener("pointerleave", () => leave(view));
  surface.addEventListener("click", (event) => { const at = cellAt(view, event); point(view, ...at, true); togglePin(view, ...at); });
  surface.addEventListener("focus", () => { if (surface.matches(":focus-visible")) point(view, ...view.at, true); });
  surface.addEventListener("blur", () => leave(view));
  surface.addEventListener("keydown", (event) => press(view, event));
  mark(view);
  paint(view);
}

function drawBar() {
  byId("shades").style.background = `linear-gradient(to right, ${data.shades.map(([at, c]) => `${c} ${100 * at}%`).join(", ")})`;
  const measure = shownMeasure();
  byId("panels").classList.toggle("other-measure", measure !== picked); // best cells may have any colour there
  const some = panels.some((p) => (p.measures[measure.key] || []).flat().includes(null));
  byId("bar-is").textContent = `${measure.label[0].toUpperCase()}${measure.label.slice(1)}`
    + (data.seeds > 1 && measure.key !== "spread" ? ", mean over seeds" : "") + "; yellow is lowest"
    + (measure.key === "epochs_to_best" && some ? "; white: never" : "");
  byId("shade-ticks").replaceChildren();
  for (const [at, text] of scaleOf(byId("scale").value, measure).ticks)
    element("span", "", byId("shade-ticks"), minus(text)).style.left = `${100 * at}%`;
}

function addMeasures() {
  for (const { key, label } of data.measures) element("option", "", byId("measure"), label).value = key;
  byId("measure").value = picked.key; // browsers keep a choice when a page is loaded again
}

// Explains a term where one points at it or tabs to it; the explanations stand at the end of the page.
function addTerms() {
  for (const link of document.querySelectorAll("a.term")) {
    const meaning = byId(link.hash.slice(1));
    const show = () => tell(meaning.textContent, link.getBoundingClientRect());
    for (const event of ["pointerenter", "focus"]) link.addEventListener(event, show);
    for (const event of ["pointerleave", "blur"]) link.addEventListener(event, () => { byId("tip").hidden = true; });
    link.setAttribute("aria-describedby", meaning.id);
  }
}

// Panels that differ only in their budget share a slider; at 0 all of them are shown.
function addBudget() {
  const count = {};
  for (const p of panels) count[p.family] = (count[p.family] || 0) + 1;
  const several = views.filter((v) => count[v.p.family] > 1);
  const budgets = [...new Set(several.map((v) => v.p.epochs))].sort((a, b) => a - b);
  byId("budget-label").hidden = budgets.length < 2;
  if (budgets.length < 2) return;
  const slider = byId("budget");
  slider.max = budgets.length;
  const show = () => {
    const budget = budgets[slider.value - 1];
    byId("budget-is").textContent = budget === undefined ? "all budgets" : `${budget} epoch${budget > 1 ? "s" : ""}`;
    slider.setAttribute("aria-valuetext", byId("budget-is").textContent);
    for (const v of several) v.box.hidden = budget !== undefined && v.p.epochs !== budget;
    byId("panels").style.setProperty("--columns", data.columns[views.filter((v) => !v.box.hidden).length]);
    const from = views.find((v) => v.p === chosen[0]);
    const to = from.box.hidden ? views.find((v) => !v.box.hidden && v.p.family === from.p.family) : from;
    if (to) chosen = [to.p, chosen[1], chosen[2]]; // the same cell at the budget that is shown
    drawPlots();
  };
  slider.addEventListener("input", show);
  slider.value = 0; // browsers keep a slider where it was when a page is loaded again
  show();
}
