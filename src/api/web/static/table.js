// A table body that follows a list: rows keep their place in the document (and the focus in them) as
// long as their item is there. Draws a bounded number of rows and says how many it left out.

import { clip, el, write } from "./dom.js";
import { count } from "./format.js";

/** Rows that are drawn at most. */
export const ROWS_MAX = 100;

/**
 * @template T
 * @typedef {{
 *   title: string,
 *   number?: boolean,
 *   head?: boolean,
 *   text?: (item: T) => string,
 *   make?: (item: () => T) => Node,
 *   show?: (node: any, item: T) => void,
 * }} Column `text`, or a node that is made once and shown anew; `head` names the row
 */

/**
 * @template T
 * @param {Element} place where the table goes
 * @param {{
 *   about: string, columns: Column<T>[], key: (item: T) => string, empty: string,
 *   filter?: (item: T) => string, chosen?: (item: T) => boolean, most?: number
 * }} plan
 * @returns {(items: T[]) => void}
 */
export function table(place, plan) {
  const most = plan.most ?? ROWS_MAX;
  const note = el("p", { class: "soft small" });
  const empty = el("p", { class: "empty" }, plan.empty);
  // The roles are said because a narrow page lays the table out as a list, and browsers drop them then.
  const body = el("tbody", { role: "rowgroup" });
  const head = el(
    "tr",
    { role: "row" },
    ...plan.columns.map((column) =>
      el(
        "th",
        { scope: "col", role: "columnheader", class: column.number ? "number" : null },
        column.title || el("span", { class: "unseen" }, "Action"),
      ),
    ),
  );
  const search = /** @type {HTMLInputElement} */ (
    el("input", {
      type: "search",
      "aria-label": `Filter: ${plan.about}`,
      placeholder: "Filter",
      input: () => draw(),
    })
  );
  const scroll = el(
    "div",
    { class: "scroll tall", tabindex: "0", role: "region", "aria-label": plan.about },
    el(
      "table",
      { role: "table", class: "stacks", "aria-label": plan.about },
      el("thead", { role: "rowgroup" }, head),
      body,
    ),
  );
  place.replaceChildren(search, note, empty, scroll);

  /** @type {T[]} */
  let all = [];
  /** @type {Map<string, { row: HTMLElement, item: T, nodes: Node[] }>} */
  let rows = new Map();

  /** @param {T} item */
  function make(item) {
    /** @type {{ row: HTMLElement, item: T, nodes: Node[] }} */
    const made = { row: el("tr", { role: "row" }), item, nodes: [] };
    for (const column of plan.columns) {
      const cell = el(column.head ? "th" : "td", {
        scope: column.head ? "row" : null,
        class: column.number ? "number" : null,
        role: column.head ? "rowheader" : "cell",
        "data-title": column.title || null,
      });
      const node = column.make?.(() => made.item) ?? cell;
      if (node !== cell) cell.append(node);
      made.nodes.push(node);
      made.row.append(cell);
    }
    return made;
  }

  function draw() {
    const wanted = search.value.trim().toLowerCase();
    const matching =
      plan.filter && wanted
        ? all.filter((item) => /** @type {any} */ (plan).filter(item).toLowerCase().includes(wanted))
        : all;
    // What is chosen stays in sight.
    const drawn = matching.slice(0, most);
    const far = matching.slice(most).find((item) => plan.chosen?.(item));
    if (far) drawn.push(far);
    search.hidden = !plan.filter || (all.length <= 12 && !wanted);
    empty.hidden = matching.length > 0;
    write(empty, all.length > 0 ? `None of ${count(all.length)} matches “${clip(wanted)}”.` : plan.empty);
    scroll.hidden = matching.length === 0;
    note.hidden = matching.length <= drawn.length;
    write(
      note,
      `${count(drawn.length)} of ${count(matching.length)} are shown; the filter finds the others.`,
    );

    const before = rows;
    rows = new Map();
    drawn.forEach((item, at) => {
      const key = plan.key(item);
      if (rows.has(key)) return;
      const made = before.get(key) ?? make(item);
      made.item = item;
      rows.set(key, made);
      plan.columns.forEach((column, n) => {
        const node = /** @type {any} */ (made.nodes[n]);
        if (column.text) write(node, column.text(item));
        column.show?.(node, item);
      });
      made.row.classList.toggle("chosen", plan.chosen?.(item) ?? false);
      if (body.children[at] !== made.row) body.insertBefore(made.row, body.children[at] ?? null);
    });
    for (const [key, made] of before) if (!rows.has(key)) made.row.remove();
  }

  return (items) => {
    all = items;
    draw();
  };
}
