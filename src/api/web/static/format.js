// Numbers as people read them: rates, times, counts, shares. The same units as the command line.

import { clip } from "./dom.js";

const UNITS = [
  [1e9, "Gbit/s"],
  [1e6, "Mbit/s"],
  [1e3, "kbit/s"],
];

/** `25 Mbit/s`; at most `digits` behind the point. @param {number | null | undefined} bps */
export function rate(bps, digits = 2) {
  if (bps === null || bps === undefined || !Number.isFinite(bps)) return "–";
  for (const [scale, unit] of UNITS) {
    if (bps >= Number(scale)) return `${trimmed(bps / Number(scale), digits)} ${unit}`;
  }
  return `${Math.round(bps)} bit/s`;
}

/**
 * Bits per second of a number and one of the units of a form.
 * @param {string} number
 * @param {string} unit
 */
export function bps(number, unit) {
  const scale = UNITS.find(([, name]) => name === unit)?.[0] ?? 1;
  return Math.round(Number(number) * Number(scale));
}

/** @param {number} number @param {number} digits */
function trimmed(number, digits) {
  const text = number.toFixed(digits);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/** `12,345`. @param {number | null | undefined} number */
export function count(number) {
  return number === null || number === undefined ? "–" : Math.round(number).toLocaleString("en");
}

/** `1.1 ms` of microseconds. @param {number | null | undefined} us */
export function micros(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1) return `${Math.round(us * 1000)} ns`;
  if (us < 1000) return `${trimmed(us, us < 10 ? 1 : 0)} µs`;
  if (us < 1e6) return `${trimmed(us / 1000, us < 1e4 ? 1 : 0)} ms`;
  return `${trimmed(us / 1e6, 1)} s`;
}

/** `2 min 5 s` of milliseconds. @param {number | null | undefined} ms */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** `4 %`, `0.3 %`. @param {number} share */
export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const hundredths = share * 100;
  return `${hundredths > 0 && hundredths < 10 ? trimmed(hundredths, hundredths < 1 ? 2 : 1) : Math.round(hundredths)} %`;
}

/** `a → b → c`, shortened in the middle if it is long. @param {string[] | null | undefined} peers */
export function path(peers) {
  if (!peers || peers.length === 0) return "–";
  const names = peers.map((name) => clip(name));
  if (names.length <= 12) return names.join(" → ");
  return `${names.slice(0, 6).join(" → ")} → … ${names.length - 11} more … → ${names.slice(-5).join(" → ")}`;
}

/** `1 peer`, `2 peers`. @param {number} number @param {string} thing @param {string} [things] */
export function many(number, thing, things = `${thing}s`) {
  return `${count(number)} ${number === 1 ? thing : things}`;
}

/** Time of day of an event. @param {number} ms since 1970 */
export function clock(ms) {
  const at = new Date(ms);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}
