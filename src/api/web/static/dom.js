// Makes elements. The one way text of others gets into the page: as text nodes, cut to a bound.

/** Longest text of others that is shown in one place. */
export const TEXT_MAX = 64;

/**
 * Cut to a bound by characters, not by halves of one, without what turns the direction of writing.
 * @param {unknown} text
 * @param {number} [most]
 */
export function clip(text, most = TEXT_MAX) {
  const plain = String(text ?? "").replace(
    /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu,
    "\u00b7",
  );
  if (plain.length <= most) return plain;
  const letters = Array.from(plain.slice(0, 2 * most + 2));
  return letters.length <= most ? plain : `${letters.slice(0, most - 1).join("")}…`;
}

/**
 * @typedef {string | number | Node | null | undefined | false} Child
 * @param {string} tag
 * @param {Record<string, unknown>} [with_] attributes; functions are listeners of the event of that name
 * @param {...Child} children
 * @returns {HTMLElement}
 */
export function el(tag, with_ = {}, ...children) {
  return /** @type {HTMLElement} */ (fill(document.createElement(tag), with_, children));
}

/**
 * @param {string} tag
 * @param {Record<string, unknown>} [with_]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function svg(tag, with_ = {}, ...children) {
  return /** @type {SVGElement} */ (
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), with_, children)
  );
}

/** @param {Element} element @param {Record<string, unknown>} with_ @param {Child[]} children */
function fill(element, with_, children) {
  for (const [name, value] of Object.entries(with_)) {
    if (typeof value === "function") element.addEventListener(name, /** @type {EventListener} */ (value));
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...kept(children));
  return element;
}

/** @param {Child[]} children @returns {(string | Node)[]} */
function kept(children) {
  return children
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (typeof child === "number" ? String(child) : /** @type {string | Node} */ (child)));
}

/** Puts these in place of what is there. @param {Element} element @param {...Child} children */
export function put(element, ...children) {
  element.replaceChildren(...kept(children));
}

/**
 * Changes a text only if it is another one: less for the browser and for screen readers.
 * @param {Element} element
 * @param {string} text
 */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The element of that id, which the page has. @param {string} id @returns {any} */
export function by(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}
