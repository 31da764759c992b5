// Why a channel is slow, or loses frames: every peer of its path is asked, when it is chosen and again on
// demand. The words are the daemon's.

import { get, part } from "./api.js";
import { clip, el, put } from "./dom.js";
import { count, micros } from "./format.js";

/** Peers of a path that are listed at most. */
const PEERS_MAX = 64;

/** @param {HTMLElement} place @param {string} id */
export function explain(place, id) {
  const said = el("div", { "aria-live": "polite" });
  const again = el("button", { class: "slim", click: () => ask() }, "Ask again");
  put(
    place,
    el("header", {}, el("h3", {}, "Why? Every peer of the path"), el("div", { class: "end" }, again)),
    said,
  );
  async function ask() {
    /** @type {HTMLButtonElement} */ (again).disabled = true;
    put(said, el("p", { class: "empty" }, "Asking every peer of the path…"));
    try {
      show(said, await get(`channels/${part(id)}/why`));
    } catch (error) {
      put(said, el("p", { class: "notice bad" }, `Not answered: ${clip(String(/** @type {any} */ (error).message), 300)}`));
    }
    /** @type {HTMLButtonElement} */ (again).disabled = false;
  }
  void ask();
}

/** @param {HTMLElement} place @param {any} reply */
function show(place, reply) {
  const hops = (reply.survey?.hops ?? []).slice(0, PEERS_MAX);
  const back = [...hops].reverse();
  const used = (/** @type {any} */ hop) => hop.back.entered + hop.back.received > 0;
  put(
    place,
    el("ul", {}, ...reply.findings.map((/** @type {string} */ text) => el("li", {}, clip(text, 400)))),
    table("From who asked for the channel", hops, (hop) => hop.there),
    ...(back.some(used) ? [table("From the service", back, (hop) => hop.back)] : []),
  );
}

/** @param {string} title @param {any[]} hops @param {(hop: any) => any} way */
function table(title, hops, way) {
  const heads = ["Peer", "In", "Out", "Dropped", "Until here p50", "p99", "Inside p50", "p99"];
  const head = (/** @type {string} */ text, /** @type {number} */ at) =>
    el("th", { scope: "col", class: at > 0 ? "number" : "" }, text);
  const time = (/** @type {any} */ times, /** @type {string} */ key, /** @type {number} */ scale) =>
    times ? micros(times[key] / scale) : "–";
  const row = (/** @type {any} */ hop) => {
    const of = way(hop);
    const dropped = Object.values(of.dropped).reduce((sum, number) => sum + Number(number), 0);
    const cells = hop.missing
      ? ["–", "–", "–", "–", "–", "–", "–"]
      : [
          count(of.entered + of.received),
          count(of.sent + of.delivered),
          count(dropped),
          time(of.one_way_us, "p50", 1),
          time(of.one_way_us, "p99", 1),
          time(of.inside_ns, "p50", 1000),
          time(of.inside_ns, "p99", 1000),
        ];
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, clip(hop.peer)),
      ...cells.map((text) => el("td", { class: "number" }, text)),
    );
  };
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      {},
      el("caption", {}, title),
      el("thead", {}, el("tr", {}, ...heads.map(head))),
      el("tbody", {}, ...hops.map(row)),
    ),
  );
}
