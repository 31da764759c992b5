// Parser of server-sent events. Text comes in pieces of any size, events go out whole.

/**
 * @typedef {{ name: string, data: string }} Sent
 * @param {(event: Sent) => void} on
 * @returns {(piece: string) => void}
 */
export function parser(on) {
  /**
   * Pieces of a line whose end has not come yet: joined once, however many they are. @type {string[]}
   */
  let open = [];
  let name = "message";
  /** @type {string[]} */
  let data = [];
  let afterReturn = false;

  /** @param {string} line */
  function take(line) {
    if (line === "") {
      if (data.length > 0) on({ name, data: data.join("\n") });
      name = "message";
      data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "event") name = value;
    if (field === "data") data.push(value);
  }

  return (piece) => {
    let from = afterReturn && piece[0] === "\n" ? 1 : 0;
    if (piece !== "") afterReturn = false;
    const end = /\r\n|\n|\r/g;
    end.lastIndex = from;
    for (let found = end.exec(piece); found; found = end.exec(piece)) {
      open.push(piece.slice(from, found.index));
      take(open.join(""));
      open = [];
      from = end.lastIndex;
      afterReturn = found[0] === "\r" && from === piece.length;
    }
    if (from < piece.length) open.push(piece.slice(from));
  };
}
