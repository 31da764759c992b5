// The live log: what happened at this peer since the page was opened, newest first, with filters.

import { by, clip, el, put, write } from "./dom.js";
import { clock, count } from "./format.js";
import { on } from "./live.js";

/** Lines that are kept, and that are drawn. */
const KEPT_MAX = 3_000;
const DRAWN_MAX = 200;
const TEXT_MAX = 300;

/** Newest last. @type {any[]} */
const kept = [];
const kinds = new Set();
let paused = false;
let missed = 0;
let asked = false;

/** Listens from now on. */
export function start() {
  on("event", (line) => {
    kept.push(line);
    if (kept.length > KEPT_MAX) kept.splice(0, kept.length - KEPT_MAX);
    if (!kinds.has(line.event) && kinds.size < 60) {
      kinds.add(line.event);
      by("log-kind").append(el("option", { value: line.event }, clip(line.event)));
    }
    if (paused) missed += 1;
    soon();
  });
  by("log-filter").addEventListener("input", () => draw());
  by("log-kind").addEventListener("change", () => draw());
  by("log-pause").addEventListener("click", () => {
    paused = !paused;
    missed = 0;
    by("log-pause").setAttribute("aria-pressed", String(paused));
    write(by("log-pause"), paused ? "Go on" : "Pause");
    draw();
  });
  draw();
}

/** Many lines at once are one drawing. */
function soon() {
  if (asked) return;
  asked = true;
  setTimeout(() => {
    asked = false;
    if (paused) write(by("log-note"), `paused, ${count(missed)} more since`);
    else draw();
  }, 100);
}

function draw() {
  const text = by("log-filter").value.trim().toLowerCase();
  const kind = by("log-kind").value;
  const lines = kept
    .slice(0, kept.length - missed)
    .filter(
      (line) =>
        (!kind || line.event === kind) &&
        (!text || `${line.event} ${line.text}`.toLowerCase().includes(text)),
    );
  const shown = lines.slice(-DRAWN_MAX).reverse();
  write(
    by("log-note"),
    kept.length === 0
      ? ""
      : `${count(shown.length)} of ${count(kept.length)} lines${paused ? ", paused" : ""}`,
  );
  put(
    by("log"),
    ...(shown.length > 0
      ? shown.map(line)
      : [
          el(
            "li",
            { class: "soft nothing" },
            el(
              "span",
              { class: "text" },
              kept.length === 0 ? "Nothing happened since this page was opened." : "No line matches.",
            ),
          ),
        ]),
  );
}

/** @param {any} line an EventLine */
function line(line) {
  return el(
    "li",
    {},
    el("time", {}, clock(line.at_ms)),
    el("span", { class: "kind" }, clip(line.event)),
    el("span", { class: "text" }, clip(line.text, TEXT_MAX)),
  );
}
