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

/**
 * All steps in order of time, or null where the daemon keeps none.
 * @returns {Promise<Step[] | null>}
 */
async function read() {
  /** @type {[string, any][]} */
  let courses;
  try {
    courses = Object.entries(await get("computation"));
  } catch {
    return null;
  }
  // A peer may still tell of the one before.
  const latest = newest(courses.map(([, course]) => course.session).filter(Boolean));
  return courses
    .filter(([, course]) => course.session === latest)
    .flatMap(([peer, course]) =>
      course.steps.map((/** @type {any} */ step) => ({
        peer,
        at: step.at_us,
        level: step.level,
        what: words(step),
        // A peer without a core is a fragment of its own.
        fragment: JSON.stringify(step.fragment ?? [peer]),
      })),
    )
    .sort((one, other) => one.at - other.at);
}

/** The greatest of sessions like `12@peer`. @param {string[]} sessions */
function newest(sessions) {
  return sessions.sort((one, other) => parseInt(other, 10) - parseInt(one, 10) || (one < other ? 1 : -1))[0];
}

/** @param {any} step a CourseStep */
function words(step) {
  const other = step.neighbour ? clip(step.neighbour) : "";
  switch (step.what) {
    case "woke":
      return "woke up";
    case "chose":
      return `chose the edge to ${other}, the best that leads out of its fragment`;
    case "merged":
      return `two fragments became one over the edge to ${other}`;
    case "joined":
      return "its fragment is part of another one now";
    case "absorbed":
      return `took in the fragment behind ${other}`;
    case "done":
      return "has the whole tree";
    default:
      return clip(step.what);
  }
}

/** Where everybody is at a time. @param {Step[]} steps @param {number} until */
function pieces(steps, until) {
  /** @type {Map<string, number>} */
  const colors = new Map();
  /** @type {import("./picture.js").Pieces} */
  const at = new Map();
  for (const step of steps) {
    if (!colors.has(step.fragment)) colors.set(step.fragment, colors.size % COLORS);
    if (step.at <= until)
      at.set(step.peer, {
        fragment: step.fragment,
        level: step.level,
        color: colors.get(step.fragment) ?? 0,
      });
  }
  return at;
}

/** @param {import("./picture.js").Pieces} at @param {Step | undefined} last */
function tell(at, last) {
  const fragments = new Set([...at.values()].map((piece) => piece.fragment)).size;
  const level = Math.max(0, ...[...at.values()].map((piece) => piece.level));
  write(
    by("course-words"),
    `${fragments} ${fragments === 1 ? "fragment" : "fragments"}, highest level ${level}` +
      (last ? `. ${clip(last.peer)} ${last.what}` : ""),
  );
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
