// What both pages have: the token, the stream of changes, whose daemon this is.

import { start as connect, on } from "./live.js";
import { by, clip, el, put } from "./dom.js";
import { span } from "./format.js";
import { start as ask } from "./token.js";

/** Once everything that listens is in place. */
export function start() {
  ask();
  on("status", (status) => {
    put(
      by("here"),
      el("b", {}, clip(status.name)),
      ` · ${clip(status.version)} · up ${span(status.uptime_ms)}`,
    );
  });
  void connect();
}
