// Requests of this peer that stand in line, and what each of them waits for.

import { part, remove } from "./api.js";
import { clip, el, put } from "./dom.js";
import { many, path, rate, span } from "./format.js";
import { attempt } from "./said.js";
import { blocked } from "./words.js";

/** Requests that are drawn at most. */
const ROWS_MAX = 50;

/** @param {HTMLElement} place @param {any[]} rows QueueRows @param {(id: string) => string} named */
export function draw(place, rows, named) {
  if (rows.length === 0) return put(place, el("p", { class: "empty" }, "Nothing waits."));
  // The button that has the focus keeps it.
  const focused = document.activeElement?.closest("li")?.getAttribute("data-id");
  put(
    place,
    el("ol", { class: "waiting" }, ...rows.slice(0, ROWS_MAX).map((row) => request(row, named))),
    rows.length > ROWS_MAX &&
      el("p", { class: "soft small" }, `And ${many(rows.length - ROWS_MAX, "request")} more.`),
  );
  if (!focused) return undefined;
  const again = [...place.querySelectorAll("li[data-id]")].find(
    (item) => item.getAttribute("data-id") === focused,
  );
  return again?.querySelector("button")?.focus();
}

/** @param {any} row @param {(id: string) => string} named */
function request(row, named) {
  const cancel = el(
    "button",
    {
      class: "slim danger",
      "aria-label": `Take back ${clip(row.name)}`,
      click: (/** @type {any} */ event) =>
        attempt(event.target, `Taking back ${clip(row.name)}.`, async () => {
          await remove(`queue/${part(row.id)}`);
          return { kind: "good", title: `Taken back: ${clip(row.name)} waits no more.` };
        }),
    },
    "Take back",
  );
  return el(
    "li",
    { "data-id": row.id },
    el(
      "div",
      { class: "row" },
      el("strong", {}, clip(row.name)),
      el("span", { class: "badge wait" }, `place ${row.position}`),
      el("span", { class: "soft small" }, `waits for ${span(row.waited_ms)}, ${span(row.left_ms)} left`),
      cancel,
    ),
    el("p", {}, `${rate(row.bandwidth_bps)} to ${clip(row.peer)}/${clip(row.service)} on ${path(row.path)}`),
    el(
      "ul",
      {},
      ...row.short.slice(0, 8).map((/** @type {any} */ short) => el("li", {}, blocked(short, named))),
    ),
  );
}
