"use strict";
// The study file as one types: validated, faults beside their lines; its cost; and into the queue.

let checking = null, timer = 0, named = false;
const study = () => ({ toml: at("toml").value });

function gutter(faults) {
  const wrong = new Set(faults.map((fault) => fault.line)), list = at("gutter");
  list.replaceChildren();
  at("toml").value.split("\n").forEach((_, k) => made("li", list, k + 1, { className: wrong.has(k + 1) ? "wrong" : "" }));
  list.scrollTop = at("toml").scrollTop;
}

function goTo(line) {
  const lines = at("toml").value.split("\n"), from = lines.slice(0, line - 1).join("\n").length + (line > 1);
  at("toml").focus();
  at("toml").setSelectionRange(from, from + lines[line - 1].length);
  at("toml").scrollTop = Math.max(0, line - 5) * parseFloat(getComputedStyle(at("toml")).lineHeight);
}

function showFaults(faults) {
  at("name-fault").textContent = faults.filter((fault) => fault.field === "name").map((fault) => fault.message).join("; ");
  const others = faults.filter((fault) => fault.field !== "name");
  at("faults").replaceChildren();
  for (const fault of others) {
    const item = made("li", at("faults"), undefined, { className: "alarm" });
    if (fault.line) made("button", item, `line ${fault.line}`, { type: "button", onclick: () => goTo(fault.line) });
    item.append(` ${fault.message}`);
  }
  at("toml").setAttribute("aria-invalid", String(others.length > 0));
  gutter(others);
}

async function validate() {
  checking?.abort();
  checking = new AbortController();
  gutter([]);
  if (!at("toml").value.trim()) return;
  try {
    const found = await ask("/api/validate", study(), checking.signal);
    showFaults(found.faults);
    at("valid").textContent = found.valid ? `valid: ${found.cells} cells` : `${found.faults.length} ${found.faults.length > 1 ? "faults" : "fault"}`;
    at("plan").disabled = at("start").disabled = !found.valid;
  } catch (error) {
    if (error.name !== "AbortError") at("valid").textContent = error.message;
  }
}

function changed() {
  clearTimeout(timer);
  at("plan").disabled = at("start").disabled = true;
  at("cost").replaceChildren();
  timer = setTimeout(validate, 250);
}

at("toml").addEventListener("input", changed);
at("toml").addEventListener("scroll", () => { at("gutter").scrollTop = at("toml").scrollTop; });
at("name").addEventListener("input", () => { named = true; });
at("shipped").addEventListener("change", async () => {
  const name = at("shipped").value;
  if (!name) return;
  at("toml").value = await (await fetch(`/api/shipped/${encodeURIComponent(name)}`)).text();
  if (!named || !at("name").value) at("name").value = name;
  changed();
});

at("plan").addEventListener("click", async () => {
  at("plan").disabled = true;
  at("cost").textContent = "measuring a few steps …";
  try {
    const cost = await ask("/api/plan", study());
    at("cost").replaceChildren();
    made("p", at("cost"), cost.check);
    made("p", at("cost"), `${cost.workers} worker processes, chunks of ${cost.chunk} cells: ${span(cost.seconds).replace(" left", "")} of training`);
    const table = made("table", made("div", at("cost"), undefined, { className: "wide", tabIndex: 0 }));
    const row = (cells, tag) => { const line = made("tr", table); cells.forEach((text) => made(tag, line, text)); };
    row(["panel", "cells", "steps", "TFLOP", "seconds"], "th");
    for (const p of cost.panels) row([p.panel, p.cells, p.steps, p.tflop.toPrecision(3), p.seconds.toFixed(1)], "td");
  } catch (error) {
    at("cost").textContent = error.message;
    if (error.faults?.length) showFaults(error.faults);
  }
  at("plan").disabled = false;
});

at("submission").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("start").disabled = true;
  const given = { ...study(), name: at("name").value };
  for (const option of ["coarse", "extend", "retry"]) given[option] = at(option).checked;
  try {
    await ask("/api/queue", given);
    location.assign("/queue");
  } catch (error) {
    at("valid").textContent = error.message;
    if (error.faults?.length) showFaults(error.faults);
    at("start").disabled = false;
  }
});

gutter([]);
if (at("toml").value.trim()) changed(); // browsers keep what was typed when a page is loaded again
document.documentElement.dataset.ready = "yes";
