// The course of a computation on the picture: fragments that grow and merge, and their levels. Live while
// one runs, in slow motion when asked for.

import { get } from "./api.js";
import { by, clip, write } from "./dom.js";
import { micros } from "./format.js";
import { on } from "./live.js";
import { drawn } from "./overlay.js";

/** A computation of any length is played in this time. */
const PLAY_MS = 8_000;
const LIVE_MS = 300;
/** A computation that is watched live is left after this. */
const LIVE_MAX_MS = 20_000;
const COLORS = 8;

/** @typedef {{ at: number, peer: string, level: number, fragment: string, what: string }} Step */

let playing = 0;
let watching = false;

/** Shows the button if the daemon can tell, and follows computations. */
export async function start() {
  by("play").addEventListener("click", play);
  by("course-stop").addEventListener("click", stop);
  on("event", (line) => {
    if (line.event === "session_started" || line.event === "session_adopted") void watch();
  });
  by("play").hidden = !(await read());
}

/** All steps in order of time, or null where the daemon keeps none. @returns {Promise<Step[] | null>} */
async function read() {
  let told;
  try {
    told = await get("computation");
  } catch {
    return null;
  }
  /** @type {Step[]} */
  const steps = [];
  for (const [peer, course] of Object.entries(told?.peers ?? told ?? {})) {
    for (const step of /** @type {any} */ (course)?.steps ?? []) {
      steps.push({
        peer, at: step.at_us ?? 1000 * step.at_ms, level: step.level ?? 0, what: String(step.what ?? ""),
        fragment: typeof step.fragment === "string" ? step.fragment : JSON.stringify(step.fragment ?? [peer]),
      });
    }
  }
  return steps.sort((one, other) => one.at - other.at);
}

/** Where everybody is at a time. @param {Step[]} steps @param {number} until */
function pieces(steps, until) {
  /** @type {Map<string, number>} */
  const colors = new Map();
  /** @type {import("./picture.js").Pieces} */
  const at = new Map();
  for (const step of steps) {
    if (!colors.has(step.fragment)) colors.set(step.fragment, colors.size % COLORS);
    if (step.at <= until) at.set(step.peer, { fragment: step.fragment, level: step.level, color: colors.get(step.fragment) ?? 0 });
  }
  return at;
}

/** @param {import("./picture.js").Pieces} at @param {Step | undefined} last */
function tell(at, last) {
  const fragments = new Set([...at.values()].map((piece) => piece.fragment)).size;
  const level = Math.max(0, ...[...at.values()].map((piece) => piece.level));
  write(by("course-words"), `${fragments} ${fragments === 1 ? "fragment" : "fragments"}, highest level ${level}`
    + (last ? `. ${clip(last.peer)}: ${clip(last.what)}` : ""));
}

/** In slow motion. */
async function play() {
  const steps = await read();
  if (!steps || steps.length === 0) {
    write(by("course-words"), "No computation is remembered.");
    return;
  }
  stop();
  const mine = ++playing;
  const end = Math.max(1, steps[steps.length - 1].at);
  const began = performance.now();
  by("course").hidden = false;
  const frame = () => {
    if (mine !== playing) return;
    const share = Math.min(1, (performance.now() - began) / PLAY_MS);
    const until = share * end;
    const at = pieces(steps, until);
    drawn().pieces(at);
    by("course-progress").value = share;
    write(by("course-time"), micros(until));
    tell(at, steps.filter((step) => step.at <= until).at(-1));
    if (share < 1) setTimeout(frame, 60);
    else setTimeout(() => mine === playing && stop(), 4_000);
  };
  frame();
}

function stop() {
  playing += 1;
  by("course").hidden = true;
  write(by("course-words"), "");
  drawn().pieces(null);
}

/** While one runs. */
async function watch() {
  if (watching || !by("course").hidden) return;
  watching = true;
  const began = performance.now();
  let quiet = 0;
  let before = -1;
  while (quiet < 4 && performance.now() - began < LIVE_MAX_MS) {
    const steps = await read();
    if (!steps) break;
    by("play").hidden = false;
    if (!by("course").hidden) break;
    quiet = steps.length === before ? quiet + 1 : 0;
    before = steps.length;
    const at = pieces(steps, Infinity);
    drawn().pieces(at);
    tell(at, steps.at(-1));
    await new Promise((resolve) => setTimeout(resolve, LIVE_MS));
  }
  watching = false;
  if (by("course").hidden) stop();
}
