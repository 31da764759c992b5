// Plots with the vendored uPlot: lines over time, bars of a histogram. Colours come from the style
// sheet; what a plot shows is also said in words or in a table beside it.

import { el } from "./dom.js";
import { micros } from "./format.js";

/** @type {any} */
const Plot = /** @type {any} */ (globalThis).uPlot;
const HEIGHT = 170;

/** @param {string} name */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** @param {(value: number) => string} words */
function axes(words) {
  const common = {
    stroke: colour("--ink-soft"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
  };
  return [
    {
      ...common,
      size: 28,
      splits: () => [-300, -240, -180, -120, -60, 0],
      values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map(ago),
    },
    { ...common, size: 74, values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map(words) },
  ];
}

/** @param {number} seconds negative: before now */
function ago(seconds) {
  return seconds === 0 ? "now" : `−${seconds / -60} min`;
}

/**
 * A plot that fits its place and is drawn anew when that or the colour scheme changes.
 * @param {HTMLElement} place
 * @param {(width: number) => any} options
 * @param {() => any[]} data
 */
function plot(place, options, data) {
  /** @type {any} */
  let drawn = null;
  const draw = () => {
    drawn?.destroy();
    const width = Math.floor(place.clientWidth);
    drawn = width > 0 ? new Plot(options(width), data(), place) : null;
  };
  let width = 0;
  const sizes = new ResizeObserver(() => {
    if (Math.abs(place.clientWidth - width) < 2) return;
    width = place.clientWidth;
    draw();
  });
  sizes.observe(place);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", draw);
  return {
    renew: () => (drawn ? drawn.setData(data()) : draw()),
    again: draw,
    end() {
      sizes.disconnect();
      dark.removeEventListener("change", draw);
      drawn?.destroy();
    },
  };
}

/**
 * @typedef {{ label: string, colour: string, key: string, dash?: number[], fill?: boolean }} Series `key` is its class in the style sheet
 * @param {string} title @param {Series[]} series
 * @param {(value: number) => string} words
 * @param {() => (number | null)[][]} data seconds before now, then a list for each
 * @param {number} [least] the least top of the scale
 */
export function lines(title, series, words, data, least = 1) {
  const place = el("div", {
    class: "canvas",
    role: "img",
    "aria-label": `${title}; the figures are in the text and table beside it`,
  });
  const figure = el(
    "figure",
    { class: "plot" },
    el(
      "figcaption",
      {},
      title,
      el(
        "span",
        { class: "keys" },
        ...series.map((one) => el("span", { class: `key ${one.key}` }, el("span", {}, one.label))),
      ),
    ),
    place,
  );
  const made = plot(
    place,
    (width) => ({
      width,
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 16, 0, 0],
      scales: {
        x: { time: false, range: [-300, 0] },
        y: {
          range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ top) => [
            0,
            Math.max(least, (top ?? 0) * 1.1),
          ],
        },
      },
      axes: axes(words),
      series: [
        {},
        ...series.map((one) => ({
          label: one.label,
          stroke: colour(one.colour),
          width: 2,
          dash: one.dash,
          points: { show: false },
          spanGaps: true,
          fill: one.fill ? `${colour(one.colour)}22` : undefined,
        })),
      ],
    }),
    data,
  );
  return { figure, ...made };
}

/**
 * Bars of a histogram: as many as buckets, at equal distances, since the buckets double.
 * @param {string} title
 * @param {() => [number, number][]} buckets largest value and count, ascending
 * @param {number} scale to microseconds
 */
export function histogram(title, buckets, scale) {
  const place = el("div", {
    class: "canvas",
    role: "img",
    "aria-label": `${title}; the percentiles are in the table beside it`,
  });
  const figure = el("figure", { class: "plot" }, el("figcaption", {}, title), place);
  /** @type {[number, number][]} */
  let shown = [];
  const data = () => {
    shown = buckets();
    return [shown.map((_, at) => at), shown.map(([, number]) => number)];
  };
  const made = plot(
    place,
    (width) => {
      const [x, y] = axes((value) =>
        value >= 1e6 ? `${value / 1e6} M` : value >= 1e3 ? `${value / 1e3} k` : String(value),
      );
      return {
        width,
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        padding: [8, 26, 0, 0],
        scales: {
          x: { time: false, range: () => [-0.6, Math.max(shown.length, 4) - 0.4] },
          y: {
            range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ top) => [
              0,
              Math.max(1, (top ?? 0) * 1.1),
            ],
          },
        },
        axes: [
          {
            ...x,
            size: 28,
            splits: () => every(shown.length, width),
            grid: { show: false },
            values: (/** @type {any} */ _, /** @type {number[]} */ at) =>
              at.map((n) => (shown[n] ? `≤ ${micros(shown[n][0] / scale)}` : "")),
          },
          { ...y, size: 56 },
        ],
        series: [
          {},
          {
            stroke: colour("--in"),
            fill: `${colour("--in")}cc`,
            width: 0,
            points: { show: false },
            paths: Plot.paths.bars({ size: [0.86, 80], radius: 0.12 }),
          },
        ],
      };
    },
    data,
  );
  return { figure, ...made };
}

/** Which bars have their bound written below. @param {number} bars @param {number} width */
function every(bars, width) {
  const step = Math.max(1, Math.ceil((bars * 62) / Math.max(1, width - 64)));
  return Array.from({ length: bars }, (_, at) => at).filter((at) => at % step === 0);
}
