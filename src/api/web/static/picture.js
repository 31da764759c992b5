// Draws the overlay as SVG: who is there, which links, how full, the path of a channel, the fragments of
// a computation. Draws a bounded number of peers; the table of links has the same facts in words.

import { clip, svg, write } from "./dom.js";
import { percent, rate } from "./format.js";
import { Layout } from "./layout.js";
import { step } from "./load.js";

/** Peers and links that are drawn at most. */
export const PEERS_MAX = 150;
const LINKS_MAX = 500;
/** With more links than this the figures beside them would lie on each other. */
const FIGURES_MAX = 40;
/** With more peers than this they are drawn smaller; with more than that most names are left out. */
const DENSE = 24;
const CROWDED = 60;
/** Longest name below a peer. */
const NAME_MAX = 22;

/**
 * @typedef {{ name: string, state: "here" | "leaving" | "gone", self: boolean }} Peer
 * @typedef {{ a: string, b: string, capacity: number, ab: number, ba: number, tree: boolean, gone: boolean }} Link shares reserved each way
 * @typedef {{ peers: Peer[], links: Link[], path: string[] }} Scene
 * @typedef {Map<string, { fragment: string, level: number, color: number }>} Pieces
 */

export class Picture {
  #layout = new Layout();
  #root;
  #edges = svg("g");
  #nodes = svg("g");
  /** @type {Map<string, any>} */
  #drawnEdges = new Map();
  /** @type {Map<string, any>} */
  #drawnNodes = new Map();
  /** @type {Scene} */
  #scene = { peers: [], links: [], path: [] };
  /** @type {Pieces | null} */
  #pieces = null;
  #filter = "";

  /** @param {SVGElement} root */
  constructor(root) {
    this.#root = root;
    root.append(this.#edges, this.#nodes);
    new ResizeObserver(() => this.#draw()).observe(root);
  }

  /** @param {Scene} scene @returns {{ peers: number, links: number }} how many are drawn */
  show(scene) {
    this.#scene = scene;
    return this.#draw();
  }

  /** @param {string} text @returns {{ peers: number, links: number }} */
  filter(text) {
    this.#filter = text.trim().toLowerCase();
    return this.#draw();
  }

  /** Fragments in place of loads, or loads again. @param {Pieces | null} pieces */
  pieces(pieces) {
    this.#pieces = pieces;
    this.#root.classList.toggle("course", pieces !== null);
    this.#draw();
  }

  #draw() {
    const { width, height } = this.#root.getBoundingClientRect();
    const peers = chosen(this.#scene, this.#filter);
    const names = new Set(peers.map((peer) => peer.name));
    const links = this.#scene.links
      .filter((link) => names.has(link.a) && names.has(link.b))
      .sort((one, other) => Number(other.tree) - Number(one.tree))
      .slice(0, LINKS_MAX);
    if (width < 20 || height < 20) return { peers: names.size, links: links.length };
    this.#root.classList.toggle("dense", peers.length > DENSE);
    this.#root.classList.toggle("crowded", peers.length > CROWDED);
    this.#root.setAttribute("viewBox", `0 0 ${Math.round(width)} ${Math.round(height)}`);
    const places = this.#layout.place(
      [...names],
      links.map((link) => [link.a, link.b, link.tree]),
      width,
      height,
    );
    keep(
      this.#drawnEdges,
      links,
      (link) => JSON.stringify([link.a, link.b]),
      this.#edges,
      makeEdge,
      (edge, link) => this.#showEdge(edge, link, places, links.length <= FIGURES_MAX),
    );
    keep(
      this.#drawnNodes,
      peers,
      (peer) => peer.name,
      this.#nodes,
      makeNode,
      (node, peer) => this.#showNode(node, peer, places),
    );
    return { peers: names.size, links: links.length };
  }

  /**
   * @param {any} edge
   * @param {Link} link
   * @param {Map<string, {x: number, y: number}>} places
   * @param {boolean} figures
   */
  #showEdge(edge, link, places, figures) {
    const [a, b] = [places.get(link.a), places.get(link.b)];
    if (!a || !b) return;
    for (const line of [edge.halo, edge.wire, edge.run]) {
      for (const [name, value] of [
        ["x1", a.x],
        ["y1", a.y],
        ["x2", b.x],
        ["y2", b.y],
      ])
        line.setAttribute(name, String(value));
    }
    const at = this.#scene.path.findIndex((name, n) => {
      const next = this.#scene.path[n + 1];
      return (name === link.a && next === link.b) || (name === link.b && next === link.a);
    });
    const [one, other] = [this.#pieces?.get(link.a), this.#pieces?.get(link.b)];
    const branch = link.tree && one && other && one.fragment === other.fragment;
    const load = Math.max(link.ab, link.ba);
    const wide = width(link.capacity) * (this.#drawnNodes.size > CROWDED ? 0.6 : 1);
    edge.group.setAttribute(
      "class",
      `edge ${link.gone ? "gone" : link.tree ? "tree" : "other"}${at >= 0 ? " lit" : ""}${branch ? " branch" : ""}`,
    );
    edge.wire.setAttribute("class", `wire ${step(load)}`);
    edge.wire.setAttribute("stroke-width", String(link.gone ? 2 : wide));
    edge.halo.setAttribute("class", `halo${branch ? ` piece-${one.color}` : ""}`);
    edge.halo.setAttribute("stroke-width", String(wide + 14));
    edge.run.setAttribute("class", `run${at >= 0 && this.#scene.path[at] === link.b ? " back" : ""}`);
    edge.figure.setAttribute("x", String((a.x + b.x) / 2));
    edge.figure.setAttribute("y", String((a.y + b.y) / 2 + 4));
    write(edge.figure, figures && !this.#pieces && !link.gone && load > 0 ? percent(load) : "");
    write(edge.title, `${clip(link.a)} – ${clip(link.b)}: ${inWords(link)}`);
  }

  /** @param {any} node @param {Peer} peer @param {Map<string, {x: number, y: number}>} places */
  #showNode(node, peer, places) {
    const at = places.get(peer.name);
    if (!at) return;
    const piece = this.#pieces?.get(peer.name);
    const lit = this.#scene.path.includes(peer.name);
    const found = this.#filter !== "" && peer.name.toLowerCase().includes(this.#filter);
    node.group.setAttribute("transform", `translate(${at.x} ${at.y})`);
    node.group.setAttribute(
      "class",
      `node ${peer.self ? "self " : ""}${peer.state}${lit ? " lit" : ""}${found ? " found" : ""}`,
    );
    node.piece.setAttribute("class", `piece${piece ? ` piece-${piece.color}` : ""}`);
    write(node.name, clip(peer.name, NAME_MAX));
    write(
      node.note,
      this.#pieces
        ? piece
          ? `level ${piece.level}`
          : "asleep"
        : peer.self
          ? "this peer"
          : peer.state === "gone"
            ? "unreachable"
            : peer.state === "leaving"
              ? "leaving"
              : "",
    );
    write(node.title, clip(peer.name));
  }
}

/**
 * Which peers are drawn: this one, those of the path, those that match, and the next ones by links.
 * @param {Scene} scene
 * @param {string} filter
 */
function chosen(scene, filter) {
  if (scene.peers.length <= PEERS_MAX && !filter) return scene.peers;
  const known = new Map(scene.peers.map((peer) => [peer.name, peer]));
  /** @type {Map<string, string[]>} */
  const beside = new Map();
  for (const { a, b } of scene.links) {
    beside.set(a, [...(beside.get(a) ?? []), b]);
    beside.set(b, [...(beside.get(b) ?? []), a]);
  }
  const first = [...scene.peers.filter((peer) => peer.self).map((peer) => peer.name), ...scene.path];
  const matching = filter
    ? scene.peers.map((peer) => peer.name).filter((name) => name.toLowerCase().includes(filter))
    : [];
  const wanted = new Set([...first, ...matching].filter((name) => known.has(name)));
  // A set that grows while it is walked: breadth first.
  for (const name of wanted) {
    if (wanted.size >= PEERS_MAX) break;
    if (filter && !matching.includes(name)) continue;
    for (const next of beside.get(name) ?? [])
      if (known.has(next) && wanted.size < PEERS_MAX) wanted.add(next);
    if (filter && wanted.size > matching.length + 40) break;
  }
  return [...wanted].slice(0, PEERS_MAX).map((name) => /** @type {Peer} */ (known.get(name)));
}

/** @param {Link} link */
function inWords(link) {
  if (link.gone) return "gone";
  const reserved = `${percent(link.ab)} reserved there, ${percent(link.ba)} back`;
  return `${rate(link.capacity)}, ${reserved}${link.tree ? ", of the tree" : ""}`;
}

/** Width of a line for a capacity: 1 Mbit/s is thin, 10 Gbit/s is thick. @param {number} bps */
export const width = (bps) => Math.min(10, Math.max(1.5, 1.7 * (Math.log10(Math.max(1, bps)) - 4.8)));

function makeEdge() {
  const made = {
    group: svg("g"),
    halo: svg("line"),
    wire: svg("line"),
    run: svg("line"),
    figure: svg("text"),
    title: svg("title"),
  };
  made.group.append(made.title, made.halo, made.wire, made.run, made.figure);
  return made;
}

function makeNode() {
  const made = {
    group: svg("g"),
    title: svg("title"),
    name: svg("text", { y: 31 }),
    note: svg("text", { y: 46, class: "note" }),
    piece: svg("circle", { r: 19 }),
  };
  made.group.append(
    made.title,
    made.piece,
    svg("circle", { r: 13, class: "body" }),
    svg("path", { class: "cross", d: "M-5-5 5 5M5-5-5 5" }),
    made.name,
    made.note,
  );
  return made;
}

/**
 * Elements that follow a list by key.
 * @template T
 * @param {Map<string, any>} drawn
 * @param {T[]} items
 * @param {(item: T) => string} key
 * @param {Element} parent
 * @param {() => any} make @param {(made: any, item: T) => void} show
 */
function keep(drawn, items, key, parent, make, show) {
  const seen = new Set();
  for (const item of items) {
    const name = key(item);
    seen.add(name);
    let made = drawn.get(name);
    if (!made) {
      made = make();
      drawn.set(name, made);
      parent.append(made.group);
    }
    show(made, item);
  }
  for (const [name, made] of drawn) {
    if (seen.has(name)) continue;
    made.group.remove();
    drawn.delete(name);
  }
}
