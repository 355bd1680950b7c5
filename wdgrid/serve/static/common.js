"use strict";
// Requests to the API, and small helpers of all pages.

const at = (id) => document.getElementById(id);

function made(tag, parent, text, properties = {}) {
  const one = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) one.textContent = text;
  parent.append(one);
  return one;
}

// The answer of the API; throws an Error with `faults` where it has problem details.
async function ask(path, body, signal) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, { ...options, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer.");
  }
  if (answer.status === 401 && location.pathname !== "/login") location.assign("/login");
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  let said;
  try { said = await answer.json(); } catch { said = {}; }
  throw Object.assign(new Error(said.detail || said.title || `status ${answer.status}`), { faults: said.faults || [], status: answer.status });
}

const studyPath = (name, rest = "") => `/api/studies/${encodeURIComponent(name)}${rest}`;

function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `about ${Math.round(seconds)} s left`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `about ${minutes} min left` : `about ${Math.floor(minutes / 60)} h ${minutes % 60} min left`;
}

// Server-sent events while the page is seen: browsers allow few streams at once. After an error it connects again.
function listen(path, handlers) {
  let source = null;
  const close = () => { source?.close(); source = null; };
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(path());
    for (const [kind, handle] of Object.entries(handlers)) source.addEventListener(kind, (event) => handle(JSON.parse(event.data)));
    source.addEventListener("error", () => { close(); setTimeout(open, 2000); });
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}
