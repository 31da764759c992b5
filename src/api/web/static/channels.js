// The table of channels, the same on both pages: live rates, loss, drops, latency where it was asked for.

import { get, part, remove } from "./api.js";
import { by, clip, el, put, write } from "./dom.js";
import { count, many, micros, path, rate } from "./format.js";
import { drops, History } from "./history.js";
import { now, on } from "./live.js";
import { attempt, confirmed } from "./said.js";
import { table } from "./table.js";
import { loss, tone } from "./words.js";

/** Channels whose latency is asked for at most, one request each time. */
const TIMES_MAX = 12;
const TIMES_MS = 2_000;
/** Channels of which nothing was sent for so long are idle. */
const IDLE_MS = 800;

export const history = new History();
/** Latency of the channels that are shown, by id. @type {Map<string, any>} */
const times = new Map();
/** @type {string | null} */
let chosen = null;
/** When channels were sent last. */
let taken = 0;
/** @type {((row: any | null) => void)[]} */
const followers = [];

/**
 * Calls `take` with the chosen channel whenever there is something new of it.
 * @param {(row: any | null) => void} take
 */
export const onChosen = (take) => {
  followers.push(take);
};

/** @param {string} id @returns {any} the last latency that was read */
export const latency = (id) => times.get(id) ?? null;

/** A channel's name, or what is left of its id. @param {string} id */
export function named(id) {
  const row =
    (now("channels") ?? []).find((/** @type {any} */ row) => row.id === id) ??
    (now("queue") ?? []).find((/** @type {any} */ row) => row.id === id);
  return clip(row ? row.name : id);
}

/** @param {string | null} id */
export function choose(id) {
  chosen = id;
  tell();
}

/** When the daemon counted what it sent last: what comes late over the network is no other rate. */
export const clock = () => now("status")?.uptime_ms ?? 0;

/** @returns {any[]} */
const rows = () => now("channels") ?? [];

function tell() {
  const row = rows().find((row) => row.id === chosen) ?? null;
  draw(rows());
  for (const take of followers) take(row);
}

/** @type {(rows: any[]) => void} */
let draw = () => {};

/** Draws the table from now on. */
export function start() {
  draw = table(by("channels"), {
    about: "Channels",
    empty: "No channel ends here or crosses this peer.",
    key: (row) => row.id,
    filter: (row) =>
      `${row.name} ${row.peer} ${row.service} ${row.role} ${row.state} ${row.id} ${row.path.join(" ")}`,
    chosen: (row) => row.id === chosen,
    columns: columns(),
  });
  on("channels", (list) => {
    taken = performance.now();
    history.take(list, clock());
    const states = list.filter((/** @type {any} */ row) => row.state !== "open").length;
    write(
      by("channels-note"),
      `${many(list.length, "channel")}${states ? `, ${count(states)} not open` : ""}`,
    );
    tell();
  });
  // What stays the same is not sent again: no news means that nothing flows.
  on("status", () =>
    setTimeout(() => {
      if (performance.now() - taken < IDLE_MS) return;
      history.take(rows(), clock());
      tell();
    }, IDLE_MS / 2),
  );
  setInterval(() => void askTimes(), TIMES_MS);
}

/** @returns {import("./table.js").Column<any>[]} */
function columns() {
  const live = (/** @type {any} */ row) => history.rates(row.id);
  return [
    {
      title: "Channel",
      head: true,
      make: (item) =>
        el("button", {
          class: "plain",
          "aria-pressed": "false",
          click: () => choose(chosen === item().id ? null : item().id),
        }),
      show: (node, row) => {
        write(node, clip(row.name));
        node.setAttribute("aria-pressed", String(row.id === chosen));
      },
    },
    {
      title: "State",
      make: () => el("span", { class: "badge" }),
      show: (node, row) => {
        write(node, row.state);
        node.className = `badge ${tone(row.state)}`;
      },
    },
    {
      title: "Other end",
      text: (row) =>
        row.role === "relay" ? `relayed: ${path(row.path)}` : `${clip(row.peer)}/${clip(row.service)}`,
    },
    { title: "Bandwidth", number: true, text: (row) => rate(row.bandwidth_bps) },
    { title: "In", number: true, text: (row) => speed(live(row)?.in_bps, live(row)?.in_frames) },
    { title: "Out", number: true, text: (row) => speed(live(row)?.out_bps, live(row)?.out_frames) },
    { title: "Lost", number: true, text: (row) => loss(live(row)?.loss ?? null) },
    { title: "Dropped here", number: true, text: (row) => count(drops(row)) },
    {
      title: "p50 / p99",
      number: true,
      text: (row) => {
        const way = times.get(row.id)?.one_way_us;
        return way?.count ? `${micros(way.p50)} / ${micros(way.p99)}` : "–";
      },
    },
    {
      title: "",
      make: (item) =>
        el(
          "button",
          { class: "slim", click: (/** @type {any} */ event) => close(event.target, item()) },
          "Close",
        ),
      show: (node, row) => {
        node.setAttribute("aria-label", `Close ${clip(row.name)}`);
        node.hidden = row.role === "relay";
      },
    },
  ];
}

/** @param {number | null | undefined} bits @param {number | undefined} frames per second */
export function speed(bits, frames) {
  if (bits !== null && bits !== undefined) return rate(bits, 1);
  return frames === undefined ? "–" : `${count(frames)}/s`;
}

/** @param {HTMLButtonElement} button @param {any} row */
async function close(button, row) {
  const sure = await confirmed(
    `Close ${clip(row.name)}?`,
    `Its bandwidth is given back on every link, and both ends are told.`,
    "Close the channel",
  );
  if (!sure) return;
  await attempt(button, `Closing ${clip(row.name)}.`, async () => {
    await remove(`channels/${part(row.id)}`);
    if (chosen === row.id) choose(null);
    return {
      kind: "good",
      title: `Closed: ${clip(row.name)}.`,
      lines: ["Every hop has given its bandwidth back."],
    };
  });
}

/** Reads latencies of the chosen channel and of a few others. */
async function askTimes() {
  if (document.hidden) return;
  const wanted = rows()
    .filter((row) => row.state === "open" || row.state === "moving")
    .sort((a, b) => Number(b.id === chosen) - Number(a.id === chosen))
    .slice(0, TIMES_MAX);
  const known = new Set(rows().map((row) => row.id));
  for (const id of times.keys()) if (!known.has(id)) times.delete(id);
  for (const row of wanted) {
    try {
      times.set(row.id, await get(`channels/${part(row.id)}/latency`));
    } catch {
      // It was closed meanwhile, or the daemon is gone: the next round tells.
      return;
    }
  }
  if (wanted.length > 0) tell();
}
