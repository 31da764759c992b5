// Answers of the daemon in plain words. No state, no page.

import { clip, el } from "./dom.js";
import { many, path, percent, rate, span } from "./format.js";

/** What a rejection means, and what one can do. @type {Map<string, string>} */
const REASONS = new Map(
  Object.entries({
    no_such_peer: "No peer of that name is in this overlay.",
    no_such_service: "The peer has no service of that name.",
    service_busy: "The service takes one channel at a time and has one.",
    unreachable: "The peer is known, but no path leads there now.",
    never: "No path could carry it even if nothing else were reserved. Ask for less.",
    no_room: "There is not enough room now. Stand in line for it, or ask for less.",
    duplicate: "An open channel of this peer has that name. Give it another one.",
    timeout: "No answer came in time.",
    shutting_down: "A peer on the path is leaving.",
    not_allowed: "A policy forbids it.",
    busy: "A bound of a peer is reached. Try again later.",
    cancelled: "It was taken back.",
    broken: "It was open and could not be kept.",
  }),
);

/** @param {any} reply an OpenReply @returns {import("./said.js").Said} */
export function opened(reply) {
  if (reply.outcome === "open") {
    const lines = [`The path is ${path(reply.path)}.`];
    if (reply.listen) {
      lines.unshift(`Send UDP datagrams to ${reply.listen}, each at most ${reply.max_payload_bytes} bytes.`);
    }
    lines.push(
      `It carries ${rate(reply.payload_1316_bps)} of payload in datagrams of 1316 bytes, ` +
        `${rate(reply.payload_200_bps)} in datagrams of 200.`,
    );
    lines.push(
      reply.sealed
        ? `Only this peer and the one with key ${clip(reply.peer_key)} can read it.`
        : "It is not sealed: every relay can read it.",
    );
    if (reply.waited_ms) lines.push(`It stood in line for ${span(reply.waited_ms)}.`);
    return {
      kind: "good",
      title: `Open: channel ${clip(reply.channel)}.`,
      lines: [...lines, ...refused(reply)],
    };
  }
  if (reply.outcome === "queued")
    return { kind: "wait", title: "It stands in line for room.", lines: [reply.detail] };
  return {
    kind: "bad",
    title: `Rejected: ${REASONS.get(reply.reason) ?? clip(reply.reason ?? "")}`,
    lines: [reply.detail, ...refused(reply), ...limit(reply.limit)].filter(Boolean),
  };
}

/** @param {any} reply an OpenReply @returns {Node[]} */
function refused(reply) {
  if (!reply.refused?.length) return [];
  return [
    el(
      "ul",
      {},
      ...reply.refused
        .slice(0, 8)
        .map((/** @type {any} */ one) => el("li", {}, `${path(one.path)} was refused ${clip(one.why, 200)}`)),
    ),
  ];
}

/** @param {any} fit a FitReply @returns {import("./said.js").Said} */
export function wouldFit(fit) {
  const lines = [];
  if (fit.path?.length) lines.push(`The best path is ${path(fit.path)}.`);
  if (fit.bottleneck) {
    const [near, far] = fit.bottleneck.map((/** @type {string} */ name) => clip(name));
    lines.push(
      `${rate(fit.free_bps)} are free on it, least between ${near} and ${far}; ${rate(fit.free_back_bps)} on the way back.`,
    );
  }
  const more = [...lines, ...limit(fit.limit)];
  if (fit.answer === "now") return { kind: "good", title: "It fits now.", lines: more };
  if (fit.answer === "later") {
    return {
      kind: "wait",
      title: "Not now, but it could stand in line until there is room.",
      lines: [fit.detail, ...more],
    };
  }
  return { kind: "bad", title: "It will never fit as it is.", lines: [fit.detail, ...more] };
}

/** @param {any} most a LimitReply */
function limit(most) {
  if (!most) return [];
  const [near, far] = most.link.map((/** @type {string} */ name) => clip(name));
  return [
    `More than ${rate(most.width_bps)} is never possible: so much the link between ${near} and ${far} carries.`,
  ];
}

/**
 * What a request in line waits for.
 * @param {any} short a ShortRow
 * @param {(id: string) => string} named
 */
export function blocked(short, named) {
  const where = short.towards
    ? `the link ${clip(short.at)} → ${clip(short.towards)}`
    : `the ${clip(short.budget ?? "budget")} of the host of ${clip(short.at)}`;
  let text = `Needs ${rate(short.asked_bps)} of ${where}, where ${rate(short.free_bps)} are free.`;
  if (short.before)
    text += ` ${many(short.ahead, "request")} before it in line, the last of them ${named(short.before)}.`;
  if (short.holders?.length)
    text += ` The rest is held by ${short.holders.slice(0, 6).map(named).join(", ")}.`;
  return text;
}

/** How much of its frames a channel lost here, in words. @param {number | null} share */
export const loss = (share) => (share === null ? "–" : share === 0 ? "none" : percent(share));

/** Why frames were dropped. @type {Map<string, string>} */
export const DROPS = new Map(
  Object.entries({
    hop_limit: "had no hops left",
    too_big: "larger than the channel's largest payload",
    policed: "above the channel's bandwidth: sent faster than was asked for",
    foreign_sender: "from an address that may not send here",
    moving: "no path while the channel moved",
    late: "came over the old path after the new one, or twice",
    closed: "came while the channel was being closed",
    no_receiver: "nobody has sent from the local side yet, so nobody is known to deliver to",
    no_link: "the link to the next hop is down",
    socket_full: "the kernel could not take it at once",
    send_error: "the kernel refused it",
    kernel_receive: "the socket's receive buffer was full",
    truncated: "larger than any buffer",
    control_truncated: "the kernel had no room to say where a datagram ends",
    ring_full: "the ring to another worker was full",
  }),
);

/** @param {string} state of a channel @returns {"good" | "wait" | ""} */
export const tone = (state) =>
  state === "open" ? "good" : state === "moving" || state === "queued" ? "wait" : "";
