"use strict";
// Descriptions of cells, colour scales, and lines of equal product. Nothing is drawn here.

const data = JSON.parse(document.getElementById("data").textContent);
const panels = data.panels;
const byId = (id) => document.getElementById(id);
const picked = data.measures[0]; // the error by which cells are picked
for (const p of panels) p.error = p.measures[picked.key];

const digits = (value, n = 4) => (value === null ? "–" : String(Number(value.toPrecision(n))));
const minus = (text) => text.replace("-", "−");

function place(p, i, j) {
  const words = { lr: "rate", weight_decay: "decay" };
  const part = (axis, label, value) => `${words[axis] || axis} ${label} (${digits(value)})`;
  return `${part(data.row, p.row_labels[i], p.row_values[i])}, ${part(data.column, p.col_labels[j], p.col_values[j])}`;
}

// How training went wrong with a finite error, one line for each class.
function flagLines(p, i, j) {
  return Object.entries(p.flags).filter(([, { seeds }]) => seeds[i][j]).map(([kind, { seeds, step }]) => {
    const at = kind === "stuck at chance" ? `from step ${step[i][j]} on` : `at step ${step[i][j]}`;
    return `${kind} ${at}` + (p.done[i][j] > 1 ? `, with ${seeds[i][j]} of ${p.done[i][j]} seeds` : "");
  });
}

// The description of a cell, as lines.
function describe(p, i, j) {
  const lines = [`${p.title}: ${place(p, i, j)}`];
  const done = p.done[i][j], diverged = p.diverged[i][j];
  if (!done) return [...lines, "not trained yet"];
  if (diverged) {
    const share = done > 1 ? ` with ${diverged} of ${done} seeds` : "";
    lines.push(`diverged${share}` + (p.diverged_at[i][j] === null ? "" : ` at step ${p.diverged_at[i][j]}`));
    const rest = p.trials[i][j].filter((t) => t[2] !== null).map((t) => `${digits(t[2])} %`);
    if (rest.length) lines.push(`other seeds: ${rest.join(", ")}`);
    return [...lines, ...flagLines(p, i, j)];
  }
  const spread = p.spread[i][j] === null ? "" : ` ± ${digits(p.spread[i][j], 2)}`;
  lines.push(`${picked.words} ${p.error[i][j].toFixed(2)}${spread} %` + (done > 1 ? ` (mean of ${done} seeds)` : " (one seed)"));
  for (const { key, words, unit } of data.measures.slice(1)) {
    const value = valueOf(p, key, i, j);
    if (value === null || key === "spread") continue;
    lines.push(`${words.split(":")[0]} ${key === "test_error" ? value.toFixed(2) : minus(digits(value, 3))}${unit && ` ${unit}`}`);
  }
  lines.push(...flagLines(p, i, j));
  const rank = p.best.findIndex(([r, c]) => r === i && c === j);
  if (rank >= 0) lines.push(rank ? `one of this panel's ${p.best.length} best (place ${rank + 1})` : "best of this panel");
  return lines;
}

// A panel's value of a measure in a cell; null where there is none.
const valueOf = (p, key, i, j) => (p.measures[key] ? p.measures[key][i][j] : null);

let [low, high] = picked.range;
const sortedOf = {}; // by measure: all its values, ascending

function sorted(key) {
  const values = () => panels.flatMap((p) => (p.measures[key] || []).flat().filter((e) => e !== null));
  return (sortedOf[key] ??= Float64Array.from(values()).sort());
}

function rankIn(values, value) {
  let from = 0, to = values.length;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (values[middle] < value) from = middle + 1; else to = middle;
  }
  return values.length > 1 ? from / (values.length - 1) : 0;
}

// A colour scale: a number for every value of a measure, its limits, and the ticks of the bar as [share of the bar, text].
function scaleOf(kind, { key, unit, range }) {
  const values = sorted(key), quarters = [0, 0.25, 0.5, 0.75, 1];
  if (kind === "rank") {
    const ticks = values.length ? quarters.map((s) => [s, digits(values[Math.round(s * (values.length - 1))], 3)]) : [];
    return { of: (e) => rankIn(values, e), limits: [0, 1], ticks };
  }
  if (kind === "log") {
    const least = values.find((e) => e > 0) || 1;
    const floor = Math.max(range[0], least), most = Math.max(values.at(-1) || range[1], floor * 1.01);
    const of = (e) => Math.log10(Math.max(e, floor));
    return { of, limits: [of(floor), of(most)], ticks: quarters.map((s) => [s, digits(floor * (most / floor) ** s, 3)]) };
  }
  const more = values.length && values.at(-1) > range[1] ? " or more" : "";
  const text = (s) => digits(range[0] + s * (range[1] - range[0]), 3) + (s === 1 ? `${unit === "%" ? " %" : ""}${more}` : "");
  return { of: (e) => e, limits: range, ticks: [0, 0.25, 0.5, 1].map((s) => [s, text(s)]) };
}

// Where on an axis, in cells, a value lies between the printed ones (by octaves); null off the grid.
function position(values, value) {
  for (let k = 0; k + 1 < values.length; k++) {
    const [a, b] = [values[k], values[k + 1]];
    if (a > 0 && b > 0 && value >= Math.min(a, b) * 0.9999 && value <= Math.max(a, b) * 1.0001)
      return k + Math.log(value / a) / Math.log(b / a);
  }
  return null;
}

const rateIsRow = data.row === "lr" && data.column === "weight_decay";
const rateIsColumn = data.row === "weight_decay" && data.column === "lr";

// Lines on which α·λ, λ/α or the averaging time τ is constant, a factor of 4 apart, one through the panel's best cell.
// Algorithms 1 and 2 decay by η λ, so τ = 1/λ does not depend on α; PyTorch's form decays by η α λ. L2 has no τ.
function isoLines(p, kind) {
  if (!kind || !p.best.length || !(rateIsRow || rateIsColumn)) return [];
  if (kind === "tau" && (p.decay === "gradient" || p.normalized)) return [];
  const decays = rateIsRow ? p.col_values : p.row_values;
  const anchor = p.best.map(([i, j]) => [p.row_values[i], p.col_values[j]]).find(([a, b]) => a * b > 0);
  if (!anchor) return [];
  const power = kind === "ratio" ? -1 : kind === "product" || p.decay === "library" ? 1 : 0;
  const [rate, decay] = rateIsRow ? anchor : [anchor[1], anchor[0]];
  const lines = [];
  for (let k = -3; k <= 3; k++) {
    const constant = rate ** power * decay * 4 ** k;
    const points = [];
    const rates = rateIsRow ? p.row_values : p.col_values;
    rates.forEach((value, at) => {
      const other = position(decays, constant / value ** power);
      if (other !== null) points.push(rateIsRow ? [other, at] : [at, other]);
    });
    if (points.length > 1) lines.push({ points, text: short(kind === "tau" ? 1 / constant / (data.steps_per_epoch || 1) : constant) });
  }
  return lines;
}

const short = (value) => (value < 0.01 || value >= 1e4 ? value.toExponential(1).replace(".0", "") : digits(value, 2));

// Explanations of the dotted lines.
const LINES_ARE = {
  "": "",
  product: "Dotted: equal α·λ (the number on each line), a factor of 4 apart. If the best cells lie along a line, only the product matters: half the learning rate needs twice the decay.",
  ratio: "Dotted: equal λ/α (the number on each line), a factor of 4 apart. If the best cells lie along a line, only the ratio matters: half the learning rate needs half the decay.",
  tau: `Dotted: equal τ, the ${data.steps_per_epoch ? "epochs" : "steps"} over which weights average their updates (the number on each line), a factor of 4 apart. L2 and normalized decay have none.`,
};
