// What changes, as it changes: one stream of server-sent events, read with fetch because it needs the
// token. Connects again by itself, and says how it stands.

import { authorisation, root } from "./api.js";
import { by } from "./dom.js";
import { parser } from "./sse.js";
import { another } from "./token.js";

const RETRY_MS = [500, 10_000];
/** The daemon says something every second. */
const SILENCE_MS = 6_000;

/** @type {Map<string, ((value: any) => void)[]>} */
const listeners = new Map();
/** The last of each kind but events. @type {Map<string, any>} */
const last = new Map();

/**
 * Calls `take` with each value of that kind, and with the last one if there is one.
 * @param {string} kind
 * @param {(value: any) => void} take
 */
export function on(kind, take) {
  listeners.set(kind, [...(listeners.get(kind) ?? []), take]);
  if (last.has(kind)) take(last.get(kind));
}

/** @param {string} kind @returns {any} */
export const now = (kind) => last.get(kind);

/** @param {string} kind @param {any} value */
function tell(kind, value) {
  if (kind !== "event") last.set(kind, value);
  for (const take of listeners.get(kind) ?? []) {
    try {
      take(value);
    } catch (error) {
      // One part of the page that fails does not stop the others.
      console.error(kind, error);
    }
  }
}

/** Connects, for as long as the page is open. */
export async function start() {
  let wait = RETRY_MS[0];
  show("", "connecting");
  for (;;) {
    const began = performance.now();
    try {
      await once();
    } catch (error) {
      if (!(error instanceof TypeError || error instanceof DOMException)) console.error(error);
    }
    if (performance.now() - began > SILENCE_MS) wait = RETRY_MS[0];
    show("lost", "connection lost, retrying");
    tell("lost", true);
    await new Promise((resolve) => setTimeout(resolve, wait * (0.75 + Math.random() / 2)));
    wait = Math.min(2 * wait, RETRY_MS[1]);
  }
}

/** One connection, until it ends. */
async function once() {
  const stop = new AbortController();
  let timer = setTimeout(() => stop.abort(), SILENCE_MS);
  try {
    const answer = await fetch(new URL("api/live", root), {
      headers: authorisation(),
      cache: "no-store",
      credentials: "omit",
      signal: stop.signal,
    });
    if (answer.status === 401) {
      clearTimeout(timer);
      return await another();
    }
    if (!answer.ok || !answer.body) return;
    const take = parser(({ name, data }) => tell(name, JSON.parse(data)));
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort(), SILENCE_MS);
      show("live", "live");
      take(piece.value);
    }
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
}

/** @param {string} kind @param {string} words */
function show(kind, words) {
  const state = by("state");
  if (state.textContent === words) return;
  state.className = `state ${kind}`;
  state.textContent = words;
}
