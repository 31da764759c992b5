// The table of links, which says in words what the picture shows, and adding and removing links of this
// peer.

import { part, post, remove } from "./api.js";
import { by, clip, el, write } from "./dom.js";
import { bps, many, rate } from "./format.js";
import { now, on } from "./live.js";
import { bar, shares } from "./load.js";
import { attempt, confirmed } from "./said.js";
import { table } from "./table.js";

/**
 * @typedef {{ a: string, b: string, capacity: number, ab: number, ba: number, tree: boolean, state: string, trust: boolean, own: string | null }} Row `own`: the neighbour, where it is a link of this peer; `trust`: no `[[link]]` names it
 */

/** @type {(rows: Row[]) => void} */
let draw;

/** Draws from now on. */
export function start() {
  draw = table(by("links"), {
    about: "Links of the overlay",
    empty: "There is no link.",
    key: (row) => JSON.stringify([row.a, row.b]),
    filter: (row) => `${row.a} ${row.b} ${row.state} ${row.tree ? "tree" : ""}`,
    columns: [
      { title: "Link", head: true, text: (row) => `${clip(row.a)} – ${clip(row.b)}${row.trust ? " (by trust)" : ""}` },
      { title: "Capacity", number: true, text: (row) => rate(row.capacity) },
      load(),
      {
        title: "State",
        make: () => el("span", { class: "badge" }),
        show: (node, row) => {
          write(node, row.state === "up" && row.tree ? "tree" : row.state);
          node.className = `badge ${row.state !== "up" ? "bad" : row.tree ? "accent" : ""}`;
        },
      },
      {
        title: "",
        make: (item) =>
          el(
            "button",
            { class: "slim danger", click: (/** @type {any} */ event) => drop(event.target, item()) },
            "Remove",
          ),
        show: (node, row) => {
          // Its key is in [trust]: that is a matter of the file.
          node.hidden = row.own === null || row.trust;
          node.setAttribute("aria-label", `Remove the link to ${clip(row.own)}`);
        },
      },
    ],
  });
  on("graph", renew);
  on("links", renew);
  by("add-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    add();
  });
}

/** The bar is of the fuller way. @returns {import("./table.js").Column<Row>} */
function load() {
  return {
    title: "Taken → ←",
    number: true,
    make: () => {
      const made = bar();
      /** @type {any} */ (made.box).show_ = made.show;
      return made.box;
    },
    show: (node, row) => node.show_(row.ab, row.ba),
  };
}

function renew() {
  const self = now("status")?.name;
  const own = new Map((now("links") ?? []).map((/** @type {any} */ link) => [link.peer, link]));
  /** @type {Row[]} */
  const rows = (now("graph")?.links ?? []).map((/** @type {any} */ link) => {
    const neighbour = link.a === self ? link.b : link.b === self ? link.a : null;
    const mine = neighbour !== null ? own.get(neighbour) : undefined;
    if (mine) own.delete(neighbour);
    return {
      a: link.a,
      b: link.b,
      capacity: link.capacity_bps,
      ...shares(link),
      tree: link.tree,
      state: mine?.state ?? "up",
      trust: mine?.by_trust ?? false,
      own: mine ? neighbour : null,
    };
  });
  // Those of this peer that are not up are in no graph.
  for (const [peer, link] of own) {
    rows.push({
      a: self ?? "",
      b: peer,
      capacity: link.capacity_bps,
      ab: 0,
      ba: 0,
      tree: false,
      state: link.state,
      trust: link.by_trust,
      own: peer,
    });
  }
  rows.sort(
    (one, other) =>
      Number(other.own !== null) - Number(one.own !== null) ||
      one.a.localeCompare(other.a) ||
      one.b.localeCompare(other.b),
  );
  draw(rows);
  const down = rows.filter((row) => row.state !== "up").length;
  write(
    by("links-note"),
    `${many(rows.length, "link")}, those of this peer first${down ? `; ${down} of them down` : ""}`,
  );
}

function add() {
  const peer = by("link-peer").value.trim();
  const body = {
    peer,
    address: by("link-address").value.trim() || null,
    key: by("link-key").value.trim().toLowerCase(),
    capacity_bps: bps(by("link-capacity").value, by("link-unit").value),
    mtu: null,
  };
  const button = by("add-form").querySelector("button");
  return attempt(button, `Adding a link to ${clip(peer)}.`, async () => {
    const reply = await post("links", body);
    if (reply?.change === "unchanged")
      return { kind: "good", title: `The link to ${clip(peer)} was there already, just so.` };
    by("add-form").reset();
    by("add").open = false;
    return {
      kind: "good",
      title: `Added: a link to ${clip(peer)}.`,
      lines: ["It is in the configuration file too. It comes up once the other end has it."],
    };
  });
}

/** @param {HTMLButtonElement} button @param {Row} row */
async function drop(button, row) {
  const peer = row.own ?? "";
  const sure = await confirmed(
    `Remove the link to ${clip(peer)}?`,
    "Channels that cross it move to other paths, or end where there is none. It is taken out of the configuration file too.",
    "Remove the link",
  );
  if (!sure) return;
  await attempt(button, `Removing the link to ${clip(peer)}.`, async () => {
    await remove(`links/${part(peer)}`);
    return { kind: "good", title: `Removed: the link to ${clip(peer)}.` };
  });
}
