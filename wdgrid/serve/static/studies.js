"use strict";
// Fills in the verdicts of finished studies, one after the other.

const short = (panels) => [...new Set(panels.map((p) => p.verdict))].map((v) => {
  const of = panels.filter((p) => p.verdict === v).map((p) => p.panel);
  return of.length === panels.length ? v : `${of.join(", ")}: ${v}`;
}).join("; ");

(async () => {
  for (const row of document.querySelectorAll("#studies tbody tr")) {
    const cell = row.querySelector(".verdict-of");
    if (cell.textContent !== "…") continue;
    try {
      cell.textContent = short((await ask(studyPath(row.dataset.name, "/analysis"))).panels);
    } catch (error) {
      cell.textContent = "–";
      cell.title = error.message;
    }
  }
})();
