// Rates of channels from their counters: the last one of all, five minutes of some.

/** One sample a second for five minutes. */
export const SAMPLES_MAX = 300;
/** Channels whose history is kept: others begin one when they are chosen. */
const KEPT_MAX = 200;
/** Counters closer together than this say little about a rate. */
const STEP_MS = 500;

/**
 * @typedef {{ at: number, in_frames: number, out_frames: number, in_bps: number | null, out_bps: number | null,
 *   dropped: number, lost: number, loss: number | null }} Rates per second; `lost` on the way here, `loss` is its share
 * @typedef {{ at: number, row: any, rates: Rates | null, samples: Rates[] | null }} Past
 */

export class History {
  /** @type {Map<string, Past>} */
  #past = new Map();
  #kept = 0;

  /** @param {any[]} rows ChannelRows @param {number} at ms of the daemon's clock when it counted */
  take(rows, at) {
    /** @type {Map<string, Past>} */
    const next = new Map();
    let kept = 0;
    for (const row of rows) {
      const past = this.#past.get(row.id) ?? { at, row, rates: null, samples: null };
      // The daemon has started again.
      if (at < past.at) Object.assign(past, { at, row, samples: past.samples && [] });
      if (past.samples === null && this.#kept + kept < KEPT_MAX && !this.#past.has(row.id)) past.samples = [];
      if (at - past.at >= STEP_MS) {
        past.rates = rates(past.row, row, at, (at - past.at) / 1000);
        past.samples?.push(past.rates);
        if (past.samples && past.samples.length > SAMPLES_MAX) past.samples.shift();
        past.at = at;
        past.row = row;
      }
      if (past.samples && !this.#past.has(row.id)) kept += 1;
      next.set(row.id, past);
    }
    this.#past = next;
    this.#kept = 0;
    for (const past of next.values()) if (past.samples) this.#kept += 1;
  }

  /** @param {string} id @returns {Rates | null} */
  rates(id) {
    return this.#past.get(id)?.rates ?? null;
  }

  /** Oldest first. Begins to keep them if it did not. @param {string} id @returns {Rates[]} */
  samples(id) {
    const past = this.#past.get(id);
    if (!past) return [];
    past.samples ??= [];
    return past.samples;
  }
}

/** @param {any} before @param {any} now @param {number} at @param {number} seconds @returns {Rates} */
function rates(before, now, at, seconds) {
  const step = (/** @type {string} */ field) => Math.max(0, (now[field] ?? 0) - (before[field] ?? 0));
  const bits = (/** @type {string} */ field) =>
    typeof now[field] === "number" ? (8 * step(field)) / seconds : null;
  const [lost, came] = [step("lost_frames"), step("rx_frames")];
  return {
    at,
    in_frames: step("tx_frames") / seconds,
    out_frames: step("rx_frames") / seconds,
    in_bps: now.role === "relay" ? null : bits("entered_bytes"),
    out_bps: now.role === "relay" ? null : bits("delivered_bytes"),
    dropped: Math.max(0, drops(now) - drops(before)) / seconds,
    lost: lost / seconds,
    loss: lost + came > 0 ? lost / (lost + came) : null,
  };
}

/** @param {any} row */
export function drops(row) {
  let sum = 0;
  for (const number of Object.values(row.dropped ?? {})) sum += Number(number);
  return sum;
}
