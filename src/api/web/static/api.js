// Asks the daemon: JSON over fetch with the token. Addresses are relative to this file, so that the
// pages work below any base path.

import { another, token } from "./token.js";

/** Where the pages are. */
export const root = new URL("../", import.meta.url);
const ANSWER_MS = 15_000;

/** The daemon said no, or there was no answer (status 0). */
export class Refused extends Error {
  /** @param {number} status @param {string} message @param {any} body */
  constructor(status, message, body) {
    super(message);
    this.status = status;
    /** The answer of the overlay, if it was one. */
    this.body = body;
  }
}

/** @param {string} path */
export const get = (path) => ask("GET", path);
/**
 * @param {string} path
 * @param {unknown} body
 * @param {{ wait_ms?: number, headers?: Record<string, string> }} [more]
 */
export const post = (path, body, more) => ask("POST", path, body, more);
/** @param {string} path */
export const remove = (path) => ask("DELETE", path);

/** A name of others as a part of an address. @param {string} name */
export const part = (name) => encodeURIComponent(name);

/** @returns {Record<string, string>} */
export function authorisation() {
  return { Authorization: `Bearer ${token()}` };
}

/**
 * @param {string} method @param {string} path @param {unknown} [body]
 * @param {{ wait_ms?: number, headers?: Record<string, string> }} [more]
 * @returns {Promise<any>}
 */
async function ask(method, path, body, more = {}) {
  for (;;) {
    const headers = { ...authorisation(), ...more.headers };
    // A write says that it is JSON even where it has no body: no form of another page can say so.
    if (method !== "GET") headers["Content-Type"] = "application/json";
    /** @type {Response} */
    let answer;
    try {
      answer = await fetch(new URL(`api/${path}`, root), {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        credentials: "omit",
        signal: AbortSignal.timeout(ANSWER_MS + (more.wait_ms ?? 0)),
      });
    } catch (error) {
      const late = error instanceof DOMException && error.name === "TimeoutError";
      throw new Refused(0, late ? "the daemon did not answer in time" : "the daemon cannot be reached", null);
    }
    if (answer.status === 401) {
      await another();
      continue;
    }
    const said = await answer.json().catch(() => null);
    if (answer.ok) return said;
    throw new Refused(
      answer.status,
      said?.error?.message ?? said?.detail ?? `the daemon answered ${answer.status}`,
      said,
    );
  }
}
