// The result of the last action in words, where people and screen readers find it; and the question
// before an action that cannot be taken back.

import { Refused } from "./api.js";
import { by, clip, el, put } from "./dom.js";

/** Longest sentence of the daemon that is shown. */
const SENTENCE_MAX = 600;

/** @typedef {{ kind: "good" | "bad" | "wait" | "", title: string, lines?: (string | Node)[] }} Said */

/** @param {Said} said @param {string} [id] */
export function say(said, id = "said") {
  const place = by(id);
  place.className = `notice ${said.kind}`;
  place.hidden = false;
  put(
    place,
    el("strong", {}, clip(said.title, SENTENCE_MAX)),
    ...(said.lines ?? []).map((line) =>
      typeof line === "string" ? el("p", {}, clip(line, SENTENCE_MAX)) : line,
    ),
  );
}

/**
 * Does something and says what became of it. The button is off meanwhile, so that nobody asks twice.
 * @param {HTMLButtonElement | null} button
 * @param {string} doing
 * @param {() => Promise<Said>} act
 * @param {string} [id]
 */
export async function attempt(button, doing, act, id = "said") {
  if (button) button.disabled = true;
  say({ kind: "wait", title: doing }, id);
  try {
    say(await act(), id);
  } catch (error) {
    if (!(error instanceof Refused)) console.error(error);
    say(
      {
        kind: "bad",
        title: `${doing} It did not work.`,
        lines: [String(/** @type {Error} */ (error).message)],
      },
      id,
    );
  } finally {
    if (button) button.disabled = false;
  }
}

/**
 * @param {string} title @param {string} text @param {string} action what the button says
 * @returns {Promise<boolean>}
 */
export function confirmed(title, text, action) {
  return new Promise((resolve) => {
    const dialog = /** @type {HTMLDialogElement} */ (
      el(
        "dialog",
        { "aria-labelledby": "question" },
        el("h2", { id: "question" }, clip(title, SENTENCE_MAX)),
        el(
          "form",
          { method: "dialog" },
          el("p", {}, clip(text, SENTENCE_MAX)),
          el(
            "div",
            { class: "row" },
            el("button", { value: "no", autofocus: true }, "Keep it as it is"),
            el("button", { value: "yes", class: "danger" }, action),
          ),
        ),
      )
    );
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
