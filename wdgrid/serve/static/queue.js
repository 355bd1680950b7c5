"use strict";
// The queue: its entries as they change, and buttons that move, pause, resume and cancel them.

const CHANGES = {
  waiting: ["up", "down", "pause", "cancel"], running: ["pause", "cancel"], paused: ["up", "down", "resume", "cancel"],
  failed: ["resume"], cancelled: ["resume"], done: [],
};
const WORDS = { up: "Move up", down: "Move down", pause: "Pause", resume: "Go on", cancel: "Cancel" };
let shown = JSON.parse(at("queue-data").textContent);

async function change(entry, what) {
  const waiting = shown.entries.filter((one) => one.state === "waiting" || one.state === "paused");
  const place = waiting.findIndex((one) => one.id === entry.id) + 1 + (what === "up" ? -1 : 1);
  try {
    if (what === "up" || what === "down") await ask(`/api/queue/${entry.id}/move`, { to: Math.max(1, place) });
    else await ask(`/api/queue/${entry.id}/${what}`, {});
    at("said").textContent = `${entry.study}: ${WORDS[what].toLowerCase()}, done`;
  } catch (error) {
    at("said").textContent = error.message;
  }
  show(await ask("/api/queue"));
}

function progress(entry) {
  const told = shown.progress;
  if (entry.state !== "running" || told.entry !== entry.id) return entry.note;
  if (told.preparing) return told.preparing;
  return told.cells ? `${Math.floor(told.cells_done)} of ${told.cells} cells, ${span(told.seconds_left)}` : "starting";
}

function show(queue) {
  shown = queue;
  const focused = document.activeElement?.dataset?.key;
  const waits = queue.entries.some((one) => one.state === "waiting" || one.state === "running");
  at("worker").textContent = queue.worker ? "A worker trains this queue." :
    waits ? "No worker trains this queue: start wdgrid queue --work, or wdgrid serve without --no-work." : "";
  const body = at("entries").tBodies[0];
  body.replaceChildren();
  for (const entry of queue.entries) {
    const row = made("tr", body);
    row.dataset.entry = entry.id;
    made("td", row, entry.id);
    const name = made("th", row);
    name.scope = "row";
    made("a", name, entry.study).href = `/studies/${encodeURIComponent(entry.study)}`;
    const state = made("td", row, entry.state);
    state.className = "state";
    const said = progress(entry);
    if (said) made("span", state, said);
    made("td", row, new Date(1000 * entry.submitted).toLocaleString());
    const buttons = made("td", row);
    for (const what of CHANGES[entry.state]) {
      const button = made("button", buttons, WORDS[what], { type: "button" });
      button.dataset.key = `${entry.id} ${what}`;
      button.setAttribute("aria-label", `${WORDS[what]}: ${entry.study}`);
      button.addEventListener("click", () => change(entry, what));
    }
  }
  if (!queue.entries.length) made("td", made("tr", body), "The queue is empty.").colSpan = 5;
  if (focused) document.querySelector(`[data-key="${focused}"]`)?.focus();
}

show(shown);
listen(() => "/api/events", { status: show });
document.documentElement.dataset.ready = "yes";
