// The token that the daemon wants: from the address (`#token=`), kept for this tab, or asked for.

import { by } from "./dom.js";

const KEY = "spanway-token";
/** @type {(() => void)[]} */
const waiting = [];

/** Takes a token out of the address bar, so that it is neither seen nor copied with the link. */
function takeFromAddress() {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (!found) return false;
  sessionStorage.setItem(KEY, decodeURIComponent(found[1]).trim());
  history.replaceState(null, "", location.pathname + location.search);
  return true;
}

/** @returns {string} empty if there is none */
export function token() {
  return sessionStorage.getItem(KEY) ?? "";
}

/**
 * Shows the form and waits until there is another token than the one that was refused.
 * @returns {Promise<void>}
 */
export function another() {
  by("page").hidden = true;
  if (by("door").hidden) {
    by("door").hidden = false;
    by("token-refused").hidden = token() === "";
    by("token").focus();
  }
  return new Promise((resolve) => waiting.push(resolve));
}

/** A token is there that was not refused yet. */
function open() {
  by("door").hidden = true;
  by("page").hidden = false;
  for (const resolve of waiting.splice(0)) resolve();
}

/** Before anything else of the page. */
export function start() {
  takeFromAddress();
  addEventListener("hashchange", () => {
    if (takeFromAddress()) open();
  });
  by("token-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    // Somebody may paste the whole address that `spanway page` prints.
    const typed = by("token")
      .value.trim()
      .replace(/^.*#token=/, "");
    sessionStorage.setItem(KEY, typed);
    by("token").value = "";
    open();
  });
}
