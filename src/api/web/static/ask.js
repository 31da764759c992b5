// The form that asks for a channel: lists to pick from, would it fit, the answer in words.

import { get, part, post } from "./api.js";
import { by, clip, el, put, write } from "./dom.js";
import { bps, rate } from "./format.js";
import { attempt, say } from "./said.js";
import { opened, wouldFit } from "./words.js";

/** The overlay's time for an answer where nobody waits in line. */
const DEADLINE_MS = 5_000;
const POLL_MS = 1_000;
/** Peers that a list to pick from holds at most. */
const PICK_MAX = 2_000;

/** Keeps the lists current and the form working. */
export function start() {
  for (const [select, shown] of [
    ["back", "back-given"],
    ["path", "path-given"],
  ]) {
    by(select).addEventListener("change", () => {
      by(shown).hidden = by(select).value !== "given";
    });
  }
  by("wait").addEventListener("change", () => {
    by("wait-given").hidden = !by("wait").checked;
  });
  by("peer").addEventListener("change", () => services());
  by("fit").addEventListener("click", () => {
    if (!by("ask").reportValidity()) return;
    const { peer, bandwidth_bps, bandwidth_back_bps, path, avoid } = wanted();
    void attempt(by("fit"), `Asking whether ${rate(bandwidth_bps)} would fit.`, async () =>
      wouldFit(await post("would-fit", { peer, bandwidth_bps, bandwidth_back_bps, path, avoid })),
    );
  });
  by("ask").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const body = wanted();
    void attempt(
      by("open"),
      `Asking for ${rate(body.bandwidth_bps)} to ${clip(body.peer)}/${clip(body.service)}.`,
      () => ask(body),
    );
  });
}

/** The peers that can be asked. @param {any[]} peers PeerRows */
export function peers(peers) {
  const others = peers.filter((peer) => peer.state !== "self").slice(0, PICK_MAX);
  const select = by("peer");
  const key = others.map((peer) => `${peer.name} ${peer.state}`).join("\n");
  if (select.dataset.key === key) return;
  const before = select.value;
  select.dataset.key = key;
  put(
    select,
    ...others.map((peer) =>
      el(
        "option",
        { value: peer.name },
        clip(peer.name) + (peer.state === "unreachable" ? " (unreachable)" : ""),
      ),
    ),
  );
  if (others.some((peer) => peer.name === before)) select.value = before;
  else void services();
}

/** The services of the peer that is picked. */
async function services() {
  const peer = by("peer").value;
  const select = by("service");
  if (!peer) return write(by("service-help"), "No other peer is known yet.");
  write(by("service-help"), "Asking the peer for its services …");
  put(select);
  try {
    const rows = await get(`peers/${part(peer)}/services`);
    if (by("peer").value !== peer) return undefined;
    put(
      select,
      ...rows.map((/** @type {any} */ row) =>
        el("option", { value: row.name }, clip(row.name) + (row.busy ? " (busy)" : "")),
      ),
    );
    return write(by("service-help"), rows.length === 0 ? "This peer offers no service." : "");
  } catch (error) {
    if (by("peer").value !== peer) return undefined;
    return write(
      by("service-help"),
      `Its services are not known: ${clip(/** @type {Error} */ (error).message, 200)}`,
    );
  }
}

/** What the form says, as the daemon wants it. */
function wanted() {
  const bandwidth_bps = bps(by("bandwidth").value, by("unit").value);
  const wait = by("wait").checked;
  return {
    peer: by("peer").value,
    service: by("service").value,
    bandwidth_bps,
    bandwidth_back_bps: back(bandwidth_bps),
    name: by("name").value.trim() || null,
    listen: by("listen").value.trim() || null,
    deliver: by("deliver").value.trim() || null,
    path: by("path").value === "given" ? names(by("path-given").value) : by("path").value,
    avoid: names(by("avoid").value),
    deadline_ms: wait ? Math.round(1000 * Number(by("deadline").value)) : DEADLINE_MS,
    wait,
    protect: by("protect").checked,
    shape: by("shape").checked,
    keep: by("keep").checked,
    plain: by("plain").checked,
  };
}

/** @param {number} there @returns {number | null} */
function back(there) {
  const choice = by("back").value;
  if (choice === "none") return 0;
  if (choice === "same") return there;
  return choice === "given" ? bps(by("back-bandwidth").value, by("back-unit").value) : null;
}

/** @param {string} text */
const names = (text) => text.split(/[,\s]+/).filter(Boolean);

/**
 * Asks; a request that stands in line is followed until its answer.
 * @param {any} body
 * @returns {Promise<import("./said.js").Said>}
 */
async function ask(body) {
  let answer;
  try {
    answer = await post("channels", body, { wait_ms: body.wait ? 0 : DEADLINE_MS });
  } catch (error) {
    const reply = /** @type {any} */ (error).body?.error?.answer;
    if (reply) return opened(reply);
    throw error;
  }
  if (answer.outcome) return opened(answer);
  void follow(answer.id);
  return {
    kind: "wait",
    title: `It stands in line for room, at place ${answer.position}.`,
    lines: ["The list below says what it waits for. The answer will appear here."],
  };
}

/** Says the answer to a request in line once it is there. @param {string} id */
async function follow(id) {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    try {
      const { answer } = await get(`requests/${part(id)}`);
      if (answer) return say(opened(answer));
    } catch (error) {
      if (/** @type {any} */ (error).status === 404) return undefined;
    }
  }
}
