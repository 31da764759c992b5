// The admin page: the overlay drawn live, its links and channels, and what a person may do to it.

import { post } from "./api.js";
import { start as startChannels } from "./channels.js";
import { start as startCourse } from "./course.js";
import { start as startDetail } from "./detail.js";
import { by, clip, el, put } from "./dom.js";
import { count } from "./format.js";
import { start as startLinks } from "./links.js";
import { now, on } from "./live.js";
import { start as startLog } from "./log.js";
import { start as startOverlay } from "./overlay.js";
import { start as startPeers } from "./peers.js";
import { attempt, confirmed } from "./said.js";
import { start } from "./shell.js";

/** Time that channels get to move away before this peer leaves. */
const LEAVE_MS = 30_000;
const WARNINGS_MAX = 8;

startOverlay();
startChannels();
startDetail();
startLinks();
startLog();
startPeers();
for (const kind of ["status", "queue", "ledger"]) on(kind, figures);
on("status", warnings);
by("recompute").addEventListener("click", () =>
  attempt(by("recompute"), "Starting a new computation of the tree.", async () => {
    await post("recompute", {});
    return {
      kind: "good",
      title: "A new computation of the tree has started.",
      lines: ["Streams are not interrupted: the old tree serves until the new one is there."],
    };
  }),
);
by("leave").addEventListener("click", leave);
start();
void startCourse();

function figures() {
  const status = now("status");
  if (!status) return;
  const queue = now("queue") ?? [];
  const ledger = now("ledger");
  const computation = status.computation;
  /** @type {[string, string, boolean?][]} */
  const rows = [
    ["Peers known", count(status.peers)],
    ["Links up here", `${count(status.links_up)} of ${count(status.links)}`],
    ["Channels here", count(status.channels)],
    ["In line for room", count(queue.length)],
    [
      "Tree",
      computation?.running
        ? `computing, level ${computation.level}`
        : status.tree_complete
          ? "complete"
          : "computing",
      true,
    ],
    ["Session", clip(status.session ?? "none"), true],
    ["Frames' books", ledger ? (ledger.adds_up ? "add up" : "in flight") : "–", true],
    ["Back end", clip(status.backend), true],
  ];
  put(
    by("figures"),
    ...rows.map(([name, value, small]) =>
      el("div", {}, el("dt", {}, name), el("dd", { class: small ? "small" : null }, value)),
    ),
  );
}

/** @param {any} status a StatusReply */
function warnings(status) {
  const list = status.warnings ?? [];
  const place = by("warnings");
  const key = JSON.stringify(list);
  place.hidden = list.length === 0;
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  put(
    place,
    el("strong", {}, "A person should look at this"),
    el(
      "ul",
      {},
      ...list.slice(0, WARNINGS_MAX).map((/** @type {string} */ text) => el("li", {}, clip(text, 400))),
    ),
  );
}

async function leave() {
  const name = clip(now("status")?.name ?? "this peer");
  const sure = await confirmed(
    `Does ${name} leave the overlay?`,
    `Channels that cross it get up to ${LEAVE_MS / 1000} s to move to other paths; those that end here are closed. Then its daemon ` +
      "stops, and this page with it. It can only be started again on its host.",
    "Leave the overlay",
  );
  if (!sure) return;
  await attempt(by("leave"), `${name} is leaving the overlay.`, async () => {
    await post("leave", { timeout_ms: LEAVE_MS }, { wait_ms: LEAVE_MS });
    return { kind: "good", title: `${name} has left the overlay; its daemon stops.` };
  });
}
