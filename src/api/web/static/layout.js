// Where the peers stand in the picture: the vendored force layout, run to its end at once, from the
// places they have. Places stay when nothing changed.

/** @type {any} */
const d3 = /** @type {any} */ (globalThis).d3;
/** Steps for a new picture and for a changed one. */
const STEPS = [300, 90];
/** Room for names at the sides, below and above. */
const EDGE = { x: 58, top: 34, bottom: 58 };
/** The picture is not pulled wider than it is high by more than this. */
const STRETCH_MAX = 1.7;

export class Layout {
  /** @type {Map<string, any>} */
  #nodes = new Map();
  #key = "";

  /**
   * @param {string[]} names
   * @param {[string, string, boolean][]} edges ends and whether it is of the tree
   * @param {number} width @param {number} height
   * @returns {Map<string, { x: number, y: number }>}
   */
  place(names, edges, width, height) {
    const key = JSON.stringify([[...names].sort(), edges.map(([a, b]) => JSON.stringify([a, b])).sort()]);
    if (key !== this.#key) this.#run(names, edges);
    this.#key = key;
    return fit([...this.#nodes.values()], width, height);
  }

  /** @param {string[]} names @param {[string, string, boolean][]} edges */
  #run(names, edges) {
    const before = this.#nodes;
    this.#nodes = new Map(names.map((name) => [name, before.get(name) ?? { name }]));
    const known = names.filter((name) => before.has(name)).length;
    const links = edges.map(([source, target, tree]) => ({ source, target, tree }));
    d3.forceSimulation([...this.#nodes.values()])
      .stop()
      .force(
        "link",
        d3
          .forceLink(links)
          .id((/** @type {any} */ node) => node.name)
          .distance(100)
          .strength((/** @type {any} */ link) => (link.tree ? 0.5 : 0.15)),
      )
      .force("apart", d3.forceManyBody().strength(-600).distanceMax(700))
      .force("room", d3.forceCollide(38))
      .force("x", d3.forceX(0).strength(0.05))
      .force("y", d3.forceY(0).strength(0.08))
      .alpha(known > 2 ? 0.25 : 1)
      .tick(STEPS[known > 2 ? 1 : 0]);
  }
}

/** @param {any[]} nodes @param {number} width @param {number} height */
function fit(nodes, width, height) {
  const extent = (/** @type {"x" | "y"} */ axis) => {
    const all = nodes.map((node) => node[axis]);
    const [least, most] = [Math.min(...all), Math.max(...all)];
    return { least, span: Math.max(1, most - least) };
  };
  if (nodes.length === 0) return new Map();
  const [x, y] = [extent("x"), extent("y")];
  const room = { x: Math.max(1, width - 2 * EDGE.x), y: Math.max(1, height - EDGE.top - EDGE.bottom) };
  let [sx, sy] = [Math.min(2.2, room.x / x.span), Math.min(2.2, room.y / y.span)];
  sx = Math.min(sx, sy * STRETCH_MAX);
  sy = Math.min(sy, sx * STRETCH_MAX);
  const left = EDGE.x + (room.x - sx * x.span) / 2;
  const top = EDGE.top + (room.y - sy * y.span) / 2;
  return new Map(
    nodes.map((node) => [
      node.name,
      {
        x: Math.round(left + sx * (node.x - x.least)),
        y: Math.round(top + sy * (node.y - y.least)),
      },
    ]),
  );
}
