// The list of peers: it is not in the stream of changes, so it is asked for when the picture changed.

import { get } from "./api.js";
import { on } from "./live.js";

/** It is asked for after this time even where the picture did not change: reachability may have. */
const AGAIN_MS = 3_000;

/** @type {((rows: any[]) => void)[]} */
const listeners = [];
let asked = -AGAIN_MS;
let version = -1;

/** @param {(rows: any[]) => void} take PeerRows */
export function onPeers(take) {
  listeners.push(take);
}

/** Asks from now on. */
export function start() {
  on("graph", async (graph) => {
    const at = performance.now();
    if (graph.version === version && at - asked < AGAIN_MS) return;
    version = graph.version;
    asked = at;
    const rows = await get("peers").catch(() => null);
    if (rows) for (const take of listeners) take(rows);
  });
}
