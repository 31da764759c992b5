// The picture of the overlay with what is known of it: the graph, who is reachable, the path of the
// chosen channel; its legend and its description in words.

import { onChosen } from "./channels.js";
import { by, clip, el, put, svg, write } from "./dom.js";
import { count, many, path } from "./format.js";
import { on, now } from "./live.js";
import { shares, WORDS } from "./load.js";
import { onPeers } from "./peers.js";
import { PEERS_MAX, Picture } from "./picture.js";

/** A peer that nobody lists any more is drawn as unreachable for so long. */
const GONE_MS = 120_000;

/** @type {Picture} */
let picture;
/** @type {Map<string, string>} by name: the state in PeerRow */
let states = new Map();
/**
 * Those that no link leads to.
 * @type {string[]}
 */
let lost = [];
/** When each peer was last listed. @type {Map<string, number>} */
const seen = new Map();
/** Links as they were while both ends were here. @type {Map<string, any>} */
const links = new Map();
/** @type {any} */
let chosen = null;

/** Draws from now on. */
export function start() {
  picture = new Picture(by("overlay"));
  legend(by("legend"));
  on("graph", draw);
  onPeers((rows) => {
    states = new Map(rows.map((row) => [row.name, row.state]));
    draw();
  });
  onChosen((row) => {
    if (row?.id === chosen?.id && String(row?.path) === String(chosen?.path)) return;
    chosen = row;
    draw();
  });
  by("overlay-filter").addEventListener("input", () => describe(picture.filter(by("overlay-filter").value)));
}

/** The picture, for who plays a computation on it. */
export const drawn = () => picture;

function draw() {
  const graph = now("graph");
  if (graph) describe(picture.show(scene(graph)));
}

/** @param {any} graph a GraphReply @returns {import("./picture.js").Scene} */
function scene(graph) {
  const at = performance.now();
  const self = now("status")?.name;
  const leaving = new Set(
    graph.peers.filter((/** @type {any} */ peer) => peer.leaving).map((/** @type {any} */ peer) => peer.name),
  );
  for (const peer of graph.peers) seen.set(peer.name, at);
  for (const name of states.keys()) if (!seen.has(name)) seen.set(name, at);
  for (const [name, when] of seen)
    if (at - when > GONE_MS && states.get(name) === undefined) seen.delete(name);
  const reached = from(self, graph.links);
  const gone = (/** @type {string} */ name) => !reached.has(name);
  lost = [...seen.keys()].filter(gone);
  /** @type {import("./picture.js").Peer[]} */
  const peers = [...seen.keys()].sort().map((name) => ({
    name,
    self: name === self,
    state: gone(name) ? "gone" : leaving.has(name) ? "leaving" : "here",
  }));
  return { peers, links: linksOf(graph, gone), path: chosen?.path ?? [] };
}

/**
 * Everybody that links lead to, whoever says what of whom.
 * @param {string} self
 * @param {any[]} graphLinks GraphLinks
 */
function from(self, graphLinks) {
  /** @type {Map<string, string[]>} */
  const beside = new Map();
  const add = (/** @type {string} */ one, /** @type {string} */ other) => {
    const known = beside.get(one);
    if (known) known.push(other);
    else beside.set(one, [other]);
  };
  for (const { a, b } of graphLinks) {
    add(a, b);
    add(b, a);
  }
  // A set that grows while it is walked.
  const reached = new Set([self]);
  for (const name of reached) for (const next of beside.get(name) ?? []) reached.add(next);
  return reached;
}

/**
 * Those that are up, and those that an unreachable peer had.
 * @param {any} graph
 * @param {(name: string) => boolean} gone
 */
function linksOf(graph, gone) {
  const up = new Set();
  for (const link of graph.links) {
    const { ab, ba } = shares(link);
    const key = JSON.stringify([link.a, link.b]);
    up.add(key);
    links.set(key, {
      a: link.a,
      b: link.b,
      capacity: link.capacity_bps,
      ab,
      ba,
      tree: link.tree,
      // Nobody who can be asked says so any more.
      gone: gone(link.a) || gone(link.b),
    });
  }
  for (const [key, link] of links) {
    if (!up.has(key)) link.gone = true;
    if (link.gone && !((gone(link.a) || gone(link.b)) && seen.has(link.a) && seen.has(link.b)))
      links.delete(key);
  }
  return [...links.values()].map((link) => ({ ...link, tree: link.tree && !link.gone }));
}

/** @param {{ peers: number, links: number }} shown */
function describe(shown) {
  const graph = now("graph");
  const all = seen.size;
  by("overlay-filter").hidden = all <= 25 && by("overlay-filter").value === "";
  write(
    by("overlay-note"),
    shown.peers < all
      ? `${count(shown.peers)} of ${many(all, "peer")} and ${many(shown.links, "link")} are drawn${all > PEERS_MAX ? "; find others by name" : ""}`
      : `${many(graph.peers.length, "peer")}, ${many(graph.links.length, "link")}`,
  );
  const words = [
    `${many(graph.peers.length, "peer")} and ${many(graph.links.length, "link")}, ` +
      `${many(graph.links.filter((/** @type {any} */ link) => link.tree).length, "of them", "of them")} in the tree.`,
  ];
  if (lost.length > 0)
    words.push(
      `Unreachable: ${lost
        .slice(0, 20)
        .map((name) => clip(name))
        .join(", ")}.`,
    );
  if (chosen) words.push(`Channel ${clip(chosen.name)} takes ${path(chosen.path)}.`);
  words.push("The table of links has the load of each.");
  write(by("overlay-words"), words.join(" "));
}

/** @param {HTMLElement} place */
function legend(place) {
  const line = (/** @type {string} */ kind) =>
    svg(
      "svg",
      { viewBox: "0 0 30 14", "aria-hidden": "true" },
      svg("line", { x1: 3, y1: 7, x2: 27, y2: 7, class: kind }),
    );
  const item = (/** @type {string} */ kind, /** @type {string} */ words) => el("li", {}, line(kind), words);
  put(
    place,
    item("tree", "in the tree"),
    item("other", "not in the tree"),
    item("path", "path of the channel"),
    ...WORDS.map((words, at) =>
      item(`load-${at}`, at === 0 ? "nothing reserved" : at === 4 ? "above 95 %" : words),
    ),
    el("li", {}, "wider: more capacity"),
  );
}
