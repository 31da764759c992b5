// Requests of this peer that stand in line, and what each of them waits for.

import { part, remove } from "./api.js";
import { clip, el, put, write } from "./dom.js";
import { many, path, rate, span } from "./format.js";
import { attempt } from "./said.js";
import { blocked } from "./words.js";

/** Requests that are drawn at most. */
const ROWS_MAX = 50;

/**
 * Draws into that place; what is there already stays, so that a button can be pressed while things change.
 * @param {HTMLElement} place
 * @param {(id: string) => string} named
 * @returns {(rows: any[]) => void} takes QueueRows
 */
export function queue(place, named) {
  const note = el("p", { class: "empty" });
  const list = el("ol", { class: "waiting" });
  place.replaceChildren(list, note);
  /** @type {Map<string, ReturnType<typeof item>>} */
  const drawn = new Map();
  return (rows) => {
    const shown = rows.slice(0, ROWS_MAX);
    const left = new Set(drawn.keys());
    for (const row of shown) {
      const made = drawn.get(row.id) ?? item(row);
      drawn.set(row.id, made);
      left.delete(row.id);
      made.show(row, named);
      if (made.box.parentNode !== list) list.append(made.box);
    }
    for (const id of left) {
      drawn.get(id)?.box.remove();
      drawn.delete(id);
    }
    note.hidden = rows.length > 0 && rows.length === shown.length;
    write(
      note,
      rows.length === 0 ? "Nothing waits." : `And ${many(rows.length - shown.length, "request")} more.`,
    );
  };
}

/** @param {any} first a QueueRow */
function item(first) {
  const name = clip(first.name);
  const place = el("span", { class: "badge wait" });
  const times = el("span", { class: "soft small" });
  const about = el("p");
  const reasons = el("ul");
  const cancel = el(
    "button",
    {
      class: "slim danger",
      "aria-label": `Take back ${name}`,
      click: (/** @type {any} */ event) =>
        attempt(event.target, `Taking back ${name}.`, async () => {
          await remove(`queue/${part(first.id)}`);
          return { kind: "good", title: `Taken back: ${name} waits no more.` };
        }),
    },
    "Take back",
  );
  const box = el(
    "li",
    {},
    el("div", { class: "row" }, el("strong", {}, name), place, times, cancel),
    about,
    reasons,
  );
  /** What is said of the reasons now. */
  let said = "";
  return {
    box,
    /**
     * @param {any} row
     * @param {(id: string) => string} named
     */
    show(row, named) {
      write(place, `place ${row.position}`);
      write(times, `waits for ${span(row.waited_ms)}, ${span(row.left_ms)} left`);
      write(
        about,
        `${rate(row.bandwidth_bps)} to ${clip(row.peer)}/${clip(row.service)} on ${path(row.path)}`,
      );
      const lines = row.short.slice(0, 8).map((/** @type {any} */ short) => blocked(short, named));
      if (lines.join("\n") === said) return;
      said = lines.join("\n");
      put(reasons, ...lines.map((/** @type {string} */ line) => el("li", {}, line)));
    },
  };
}
