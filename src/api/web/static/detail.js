// Everything of one channel: what was promised, what it carries, where frames are dropped, how long they
// take, hop by hop.

import { choose, clock, history, latency, onChosen } from "./channels.js";
import { by, clip, el, put } from "./dom.js";
import { count, micros, path, rate } from "./format.js";
import { histogram, lines } from "./plot.js";
import { explain } from "./why.js";
import { DROPS } from "./words.js";

/** Histograms that are drawn at most. */
const HOPS_MAX = 6;

/** The plots of the channel that is shown. @type {any} */
let shown = null;

/** Follows the choice. */
export function start() {
  onChosen((row) => {
    const place = by("chosen");
    if (!row || row.id !== shown?.id) {
      shown?.end();
      shown = null;
      place.hidden = true;
      if (!row) return;
      shown = make(place, row);
    }
    shown.renew(row);
  });
}

/** @param {HTMLElement} place @param {any} first */
function make(place, first) {
  const facts = el("dl", { class: "facts" });
  const dropped = el("div");
  const percentiles = el("div");
  const plots = el("div", { class: "plots" });
  const words = el("p", { class: "soft small" });
  const why = el("div");
  place.hidden = false;
  put(
    place,
    el(
      "header",
      {},
      el("h2", { id: "chosen-title" }, clip(first.name)),
      words,
      el("div", { class: "end" }, el("button", { class: "slim", click: () => choose(null) }, "Hide")),
    ),
    facts,
    plots,
    el("div", { class: "columns even" }, dropped, percentiles),
    why,
  );
  explain(why, first.id);

  const bits = first.role !== "relay" && typeof first.entered_bytes === "number";
  const series = (/** @type {("in"|"out")[]} */ ...keys) =>
    over(
      first.id,
      keys.map((key) => (sample) => /** @type {any} */ (sample)[bits ? `${key}_bps` : `${key}_frames`]),
    );
  const rates = lines(
    bits ? "Payload in and out" : "Frames sent and received",
    [
      { label: bits ? "in, from programs here" : "sent", key: "in", colour: "--in", fill: true },
      { label: bits ? "out, to programs here" : "received", key: "out", colour: "--out", dash: [6, 4] },
    ],
    (value) => (bits ? rate(value, 1) : `${count(value)}/s`),
    () => series("in", "out"),
    bits ? 1000 : 10,
  );
  const lost = lines(
    "Lost on the way here, and dropped here",
    [
      { label: "lost", key: "in", colour: "--in" },
      { label: "dropped", key: "out", colour: "--out", dash: [6, 4] },
    ],
    (value) => `${count(value)}/s`,
    () => over(first.id, [(sample) => sample.lost, (sample) => sample.dropped]),
    5,
  );
  put(plots, rates.figure, lost.figure);
  /**
   * A histogram for the whole way and for each hop that this peer can read, once there is something in it.
   */
  const hops = new Map();

  return {
    id: first.id,
    renew(/** @type {any} */ row) {
      describe(facts, row);
      listDrops(dropped, row);
      const times = latency(row.id);
      listTimes(percentiles, times);
      for (const { key, title, way, scale } of ways(times)) {
        if (!hops.has(key) && hops.size < HOPS_MAX && way.count > 0) {
          hops.set(
            key,
            histogram(
              title,
              () => ways(latency(row.id)).find((one) => one.key === key)?.way.buckets ?? [],
              scale,
            ),
          );
          plots.append(hops.get(key).figure);
        }
      }
      const past = history.samples(row.id).length;
      words.textContent = past < 3 ? "Plots begin now." : "";
      for (const one of [rates, lost]) one.renew();
      for (const one of hops.values()) one.again();
    },
    end() {
      for (const one of [rates, lost, ...hops.values()]) one.end();
    },
  };
}

/**
 * What was timed: the whole way in microseconds, each hop in nanoseconds.
 * @param {any} times
 * @returns {{ key: string, title: string, way: any, scale: number }[]}
 */
function ways(times) {
  if (!times) return [];
  return [
    { key: "", title: "One way, from the entry to this peer", way: times.one_way_us, scale: 1 },
    ...(times.hops ?? []).map((/** @type {any} */ hop) => ({
      key: JSON.stringify([hop.peer, hop.from]),
      title: `Inside ${clip(hop.peer)}, frames from ${clip(hop.from)}`,
      way: hop.inside_ns,
      scale: 1000,
    })),
  ];
}

/**
 * Samples as lists for a plot: seconds before now, then one list for each reading.
 * @param {string} id
 * @param {((sample: any) => number | null)[]} readings
 */
function over(id, readings) {
  const samples = history.samples(id);
  const end = clock();
  return [
    samples.map((sample) => (sample.at - end) / 1000),
    ...readings.map((reading) => samples.map(reading)),
  ];
}

/** @param {any} row */
function readers(row) {
  if (!row.sealed) return "every relay: it is not sealed";
  return row.role === "relay"
    ? "only its two ends: it is sealed"
    : `only its two ends: it is sealed, the other end has key ${clip(row.peer_key)}`;
}

/** @param {HTMLElement} place @param {any} row */
function describe(place, row) {
  const live = history.rates(row.id);
  /** @type {[string, string | null][]} */
  const facts = [
    ["Id", clip(row.id)],
    [
      "Other end",
      `${clip(row.peer)}/${clip(row.service)}, ${row.role === "relay" ? "relayed here" : `this peer is the ${clip(row.role)}`}`,
    ],
    ["Path", path(row.path)],
    ["Who can read it", readers(row)],
    ["Kept", row.keep ? "asked for again until it is closed here" : null],
    [
      "If it breaks",
      row.standby
        ? `reserved: ${path(row.standby)}`
        : row.second
          ? `would try first: ${path(row.second)}`
          : null,
    ],
    [
      "Bandwidth",
      `${rate(row.bandwidth_bps)}, ${row.bandwidth_back_bps ? `${rate(row.bandwidth_back_bps)} back` : "one way"}; ` +
        `payload ${rate(row.payload_bps)} in datagrams of 1316 bytes`,
    ],
    [
      "Programs send to",
      row.listen && `${clip(row.listen)}, at most ${row.max_payload_bytes} bytes a datagram`,
    ],
    ["Delivered to", row.deliver && clip(row.deliver)],
    [
      "Offered",
      row.offered_bps !== null && row.offered_bps !== undefined
        ? `${rate(row.offered_bps)} of ${rate(row.entry_bps)}${row.shape ? ", smoothed" : ""}`
        : null,
    ],
    [
      "Now",
      live &&
        `${count(live.in_frames)} frames/s sent, ${count(live.out_frames)} received, ${count(live.dropped)} dropped`,
    ],
  ];
  put(
    place,
    ...facts.filter(([, text]) => text).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]),
  );
}

/** @param {HTMLElement} place @param {any} row */
function listDrops(place, row) {
  const drops = Object.entries(row.dropped ?? {})
    .filter(([, number]) => Number(number) > 0)
    .slice(0, 30);
  if (drops.length === 0)
    return put(
      place,
      el("h3", {}, "Drops"),
      el("p", { class: "empty" }, "No frame was dropped at this peer."),
    );
  return put(
    place,
    el("h3", {}, "Drops"),
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        {},
        el("caption", { class: "unseen" }, "Frames dropped at this peer, by reason"),
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            el("th", { scope: "col" }, "Reason"),
            el("th", { scope: "col", class: "number" }, "Frames"),
          ),
        ),
        el(
          "tbody",
          {},
          ...drops.map(([reason, number]) =>
            el(
              "tr",
              {},
              el(
                "th",
                { scope: "row" },
                el("code", {}, clip(reason)),
                el("p", { class: "help" }, DROPS.get(reason) ?? ""),
              ),
              el("td", { class: "number" }, count(Number(number))),
            ),
          ),
        ),
      ),
    ),
  );
}

/** @param {HTMLElement} place @param {any} times */
function listTimes(place, times) {
  if (!times) return put(place, el("h3", {}, "Latency"), el("p", { class: "empty" }, "Not read yet."));
  const rows = ways(times).slice(0, 16);
  return put(
    place,
    el("h3", {}, "Latency"),
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        {},
        el(
          "caption",
          { class: times.clocks_differ ? "" : "unseen" },
          times.clocks_differ
            ? "The clocks of the hosts differ: one-way times are those above the least."
            : "Percentiles of times",
        ),
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ...["Time", "p50", "p90", "p99", "max", "frames"].map((title, at) =>
              el("th", { scope: "col", class: at ? "number" : null }, title),
            ),
          ),
        ),
        el(
          "tbody",
          {},
          ...rows.map(({ title, way, scale }) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, title),
              ...["p50", "p90", "p99", "max"].map((p) =>
                el("td", { class: "number" }, way[p] === null ? "–" : micros(way[p] / scale)),
              ),
              el("td", { class: "number" }, count(way.count)),
            ),
          ),
        ),
      ),
    ),
  );
}
