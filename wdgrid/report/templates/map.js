"use strict";
// The heatmaps: drawn by Plotly, pointed at through one transparent surface each, so that a hover costs no redraw.

const views = []; // one per panel: { p, box, plot, surface, cursor, at }
const pins = []; // { view, i, j, colour }
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c564b", "#7f7f7f"];
const STILL = { staticPlot: true, responsive: true };
const dark = matchMedia("(prefers-color-scheme: dark)");

const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const flatScale = (colour) => [[0, colour], [1, colour]];

function element(tag, className, parent, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function mask(p, test) {
  return p.done.map((row, i) => row.map((_, j) => (test(i, j) ? 1 : null)));
}

function marks(p, test, symbol, size, colour) {
  const x = [], y = [];
  p.done.forEach((row, i) => row.forEach((_, j) => { if (test(i, j)) { x.push(j); y.push(i); } }));
  return { type: "scatter", mode: "markers", x, y, hoverinfo: "skip", marker: { symbol, size, color: colour, line: { width: 1, color: colour } } };
}

function traces(p, width) {
  const scale = scaleOf(byId("scale").value);
  const heat = { type: "heatmap", showscale: false, hoverinfo: "skip" };
  const diverged = (i, j) => p.diverged[i][j] > 0, missing = (i, j) => p.done[i][j] === 0;
  const z = p.error.map((row) => row.map((e) => (e === null ? null : scale.of(e))));
  const size = Math.max(2, Math.min(11, (0.3 * width) / p.col_labels.length));
  return [
    { ...heat, z, colorscale: data.shades, zmin: scale.limits[0], zmax: scale.limits[1] },
    { ...heat, z: mask(p, diverged), colorscale: flatScale(theme("diverged")), zmin: 0, zmax: 1 },
    { ...heat, z: mask(p, missing), colorscale: flatScale(theme("untrained")), zmin: 0, zmax: 1 },
    marks(p, diverged, "x-thin-open", size, "#222"),
    marks(p, missing, "line-ne-open", size * 1.3, theme("soft")),
    ...isoLines(p, byId("lines").value).map(({ points, text }) => ({
      type: "scatter", mode: "lines+text", hoverinfo: "skip", x: points.map((q) => q[0]), y: points.map((q) => q[1]),
      text: points.map((_, k) => (k === Math.floor(points.length / 2) ? text : "")), textfont: { color: "#fff", size: 10, shadow: "0 0 3px #000, 0 0 3px #000" },
      line: { color: "#fff", width: 1.5, dash: "dot" },
    })),
  ];
}

function layout(p) {
  const rows = p.row_labels.length, cols = p.col_labels.length;
  const ticks = (title, labels, at) => ({
    title: { text: title, standoff: 6 }, tickvals: at, ticktext: at.map((k) => labels[k]), fixedrange: true,
    showgrid: false, zeroline: false, automargin: true, ticks: "outside", ticklen: 3,
  });
  const circles = p.best.map(([i, j]) => ({
    type: "circle", x0: j - 0.33, x1: j + 0.33, y0: i - 0.33, y1: i + 0.33, line: { color: "#000", width: cols > 24 ? 1 : 2 },
  }));
  return {
    ...paper(), margin: { l: 60, r: 8, t: 6, b: 56 }, shapes: circles,
    xaxis: { ...ticks(p.col_title, p.col_labels, p.col_ticks), range: [-0.5, cols - 0.5], tickangle: -45 },
    yaxis: { ...ticks(p.row_title, p.row_labels, p.row_ticks), range: [rows - 0.5, -0.5] },
  };
}

function paper() {
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, font: { color: theme("ink"), size: 12 } };
}

function draw(view) {
  Plotly.react(view.plot, traces(view.p, view.plot.clientWidth), layout(view.p), STILL);
}

// The surface lies exactly over the cells; cursor and pins are placed on it in per cent.
function fit(view) {
  const { xaxis, yaxis } = view.plot._fullLayout;
  const sides = { left: xaxis._offset, top: yaxis._offset, width: xaxis._length, height: yaxis._length };
  for (const [side, pixels] of Object.entries(sides)) view.surface.style[side] = `${pixels}px`;
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

function point(view, i, j, say) {
  view.at = [i, j];
  put(view.cursor, view.p, i, j);
  view.cursor.hidden = false;
  const lines = describe(view.p, i, j), tip = byId("tip"), cell = view.cursor.getBoundingClientRect();
  tip.textContent = lines.join("\n");
  tip.hidden = false;
  const left = Math.min(cell.right + 10, innerWidth - tip.offsetWidth - 6);
  const below = cell.bottom + 8 + tip.offsetHeight > innerHeight;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${below ? Math.max(4, cell.top - tip.offsetHeight - 8) : cell.bottom + 8}px`;
  if (say) byId("status").textContent = lines.join("; ");
}

function leave(view) {
  view.cursor.hidden = true;
  byId("tip").hidden = true;
}

function addPin(view, i, j) {
  const colour = COLOURS.find((c) => pins.every((q) => q.colour !== c)) || COLOURS[pins.length % COLOURS.length];
  const mark = element("div", "pin", view.surface);
  mark.style.borderColor = colour;
  put(mark, view.p, i, j);
  pins.push({ view, i, j, colour, mark });
}

function togglePin(view, i, j) {
  const known = pins.findIndex((q) => q.view === view && q.i === i && q.j === j);
  if (known >= 0) pins.splice(known, 1)[0].mark.remove();
  else addPin(view, i, j);
  drawCurves();
  drawProfiles(view.p, i, j);
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
  const box = element("div", "panel", byId("panels"));
  element("h3", "", box, p.title);
  element("p", "form", box, p.decay_form);
  const frame = element("div", "frame", box), plot = element("div", "", frame), surface = element("div", "surface", frame);
  const cursor = element("div", "cursor", surface);
  cursor.hidden = true;
  surface.tabIndex = 0;
  surface.setAttribute("role", "application");
  surface.setAttribute("aria-label", `Heatmap ${p.title}. Arrow keys move from cell to cell, Enter pins the cell.`);
  const view = { p, box, plot, surface, cursor, at: p.best[0] || [0, 0] };
  views.push(view);
  const shape = Math.max(0.5, Math.min(1.4, p.row_labels.length / p.col_labels.length));
  plot.style.height = `${Math.min(520, Math.max(260, plot.clientWidth * 0.86 * shape + 40))}px`;
  draw(view);
  fit(view);
  plot.on("plotly_afterplot", () => fit(view));
  surface.addEventListener("pointermove", (event) => point(view, ...cellAt(view, event), false));
  surface.addEventListener("pointerleave", () => leave(view));
  surface.addEventListener("click", (event) => { const at = cellAt(view, event); point(view, ...at, true); togglePin(view, ...at); });
  surface.addEventListener("focus", () => { if (surface.matches(":focus-visible")) point(view, ...view.at, true); });
  surface.addEventListener("blur", () => leave(view));
  surface.addEventListener("keydown", (event) => press(view, event));
}

function drawBar() {
  byId("shades").style.background = `linear-gradient(to right, ${data.shades.map(([at, c]) => `${c} ${100 * at}%`).join(", ")})`;
  byId("shade-ticks").replaceChildren();
  for (const [at, text] of scaleOf(byId("scale").value).ticks)
    element("span", "", byId("shade-ticks"), minus(text)).style.left = `${100 * at}%`;
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
    const chosen = budgets[slider.value - 1];
    byId("budget-is").textContent = chosen === undefined ? "all" : `${chosen} epochs`;
    slider.setAttribute("aria-valuetext", byId("budget-is").textContent);
    for (const v of several) v.box.hidden = chosen !== undefined && v.p.epochs !== chosen;
    for (const v of views) if (!v.box.hidden) { Plotly.Plots.resize(v.plot); fit(v); }
  };
  slider.addEventListener("input", show);
  show();
}
