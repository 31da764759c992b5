// How full a link is: steps, their colours (by class) and their words.

import { svg, write } from "./dom.js";
import { percent } from "./format.js";

/** The step begins above this share of the capacity. */
const STEPS = [0, 0.5, 0.8, 0.95];
export const WORDS = ["unused", "up to 50 %", "up to 80 %", "up to 95 %", "full"];

/** @param {number} share @returns {string} class of the style sheet */
export function step(share) {
  return `load-${STEPS.filter((bound) => share > bound).length}`;
}

/** Reserved shares of a link of the graph, each way. @param {any} link a GraphLink */
export function shares(link) {
  const reserved = (/** @type {number} */ free) =>
    link.capacity_bps > 0 ? Math.max(0, 1 - free / link.capacity_bps) : 0;
  return { ab: reserved(link.free_ab_bps), ba: reserved(link.free_ba_bps) };
}

/** A small bar and its figure. */
export function bar() {
  const filled = svg("rect", { height: 8, width: 0, rx: 3 });
  const text = document.createElement("span");
  const box = document.createElement("span");
  box.append(
    svg(
      "svg",
      { class: "bar", viewBox: "0 0 40 8", "aria-hidden": "true" },
      svg("rect", { class: "ground", width: 40, height: 8, rx: 3 }),
      filled,
    ),
    text,
  );
  return {
    box,
    /** @param {number} there @param {number} back */
    show(there, back) {
      const share = Math.max(there, back);
      filled.setAttribute("width", String(Math.min(40, Math.max(share > 0 ? 3 : 0, 40 * share))));
      filled.setAttribute("class", step(share));
      write(text, `${percent(there)}  ${percent(back)}`);
    },
  };
}
