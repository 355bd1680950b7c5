"use strict";
// Two studies or panels: the numbers beside each other, and the figure.

const ROWS = [
  ["best cell", (of) => (of.best_row === null ? "–" : `${of.best_row}, ${of.best_col}`)],
  ["its test error", (of) => percent(of.test_error) + range(of.test_interval)],
  ["picked on", (of) => `${of.selected_on} images`],
  ["cost of tuning one after the other", (of) => figure(of.cost) + range(of.intervals.cost)],
  ["slope s", (of) => figure(of.slope) + range(of.intervals.slope)],
  ["interaction", (of) => figure(of.interaction) + range(of.intervals.interaction)],
  ["verdict", (of) => of.verdict],
];
const figure = (value) => (value === null || value === undefined ? "–" : value.toFixed(2).replace("-", "−"));
const percent = (value) => (value === null ? "–" : `${figure(value)} %`);
const range = (pair) => (pair ? ` [${figure(pair[0])}, ${figure(pair[1])}]` : "");

function show(found) {
  const table = at("result").querySelector("table");
  table.tHead.replaceChildren();
  table.tBodies[0].replaceChildren();
  for (const pair of found.pairs) {
    const head = made("tr", table.tBodies[0]);
    ["", `A: ${pair.a}`, `B: ${pair.b}`, "B − A"].forEach((text) => made(text ? "th" : "td", head, text, text ? { scope: "col" } : {}));
    for (const [words, of] of ROWS) {
      const row = made("tr", table.tBodies[0]);
      made("th", row, words, { scope: "row" });
      made("td", row, of(pair.of_a));
      made("td", row, of(pair.of_b));
      const difference = words === "its test error" ? `${figure(pair.difference)} points${range(pair.difference_interval)}` :
        words === "slope s" ? figure(pair.slope_difference) + range(pair.slope_difference_interval) : "";
      made("td", row, difference);
    }
  }
  at("figure").src = found.figure;
  at("result").hidden = false;
}

async function compare() {
  const words = new URLSearchParams(new FormData(at("sides")));
  if (!words.get("a") || !words.get("b")) return;
  at("said").textContent = "comparing …";
  at("result").hidden = true;
  history.replaceState(null, "", `/compare?${words}`);
  try {
    show(await ask(`/api/compare?${words}`));
    at("said").textContent = "";
  } catch (error) {
    at("said").textContent = error.message;
  }
  document.documentElement.dataset.ready = "yes";
}

at("sides").addEventListener("submit", (event) => { event.preventDefault(); compare(); });
compare();
