/* The four charts of a page: the last five minutes, one crosshair over all, colours of the theme.
   A page gives where the values come from; the newest value is the title of its chart. */

import * as units from "./units.js";

let windowSeconds = 300;
const css = getComputedStyle(document.documentElement);
const colour = {};

function readColours() {
  for (const name of ["s1", "s2", "s3", "s4", "ink-3", "line", "surface"])
    colour[name] = css.getPropertyValue(`--${name}`).trim();
}

const alpha = (value, part) => {
  if (value.startsWith("#")) return value + Math.round(part * 255).toString(16).padStart(2, "0");
  const [r, g, b] = value.match(/[\d.]+/g);
  return `rgb(${r} ${g} ${b} / ${part})`;
};

const fade = (hue) => (u) => {
  const { top, height } = u.bbox;
  const fill = u.ctx.createLinearGradient(0, top, 0, top + height);
  fill.addColorStop(0, alpha(colour[hue], 0.28));
  fill.addColorStop(1, alpha(colour[hue], 0.02));
  return fill;
};
const line = (hue, more = {}) => ({ stroke: () => colour[hue], width: 1.6, points: { show: false }, spanGaps: false, ...more });
const area = (hue) => line(hue, { fill: fade(hue) });
const dotted = (hue) => line(hue, { dash: [2, 3], width: 1.2 });
const short = (value) => (value >= 1000 ? `${+(value / 1000).toFixed(1)}k` : `${+value.toFixed(2)}`);

const CHARTS = {
  tps: {
    series: [area("s1")],
    fields: ["output_tokens_per_second"],
    beside: "prompt_tokens_per_second",
    axis: short,
    value: units.rate,
    aux: ["prompt", units.rate],
    least: 1,
  },
  in_flight: {
    series: [area("s2"), line("s3")],
    fields: ["in_flight", "queued"],
    beside: "queued",
    axis: short,
    value: units.count,
    aux: ["queued", units.count],
    least: 4,
  },
  ttft: {
    series: [area("s4"), dotted("s4")],
    fields: ["ttft_p95_seconds", "ttft_p50_seconds"],
    beside: "ttft_p50_seconds",
    axis: (value) => (value === 0 ? "0" : units.seconds(value).replace(/\.00 s$/, " s").replace(/(\.\d)0 s$/, "$1 s")),
    value: units.seconds,
    aux: ["p50", units.seconds],
    least: 0.1,
  },
  hits: {
    series: [area("s1")],
    fields: ["prefix_cache_hit_ratio"],
    axis: (value) => `${Math.round(value * 100)}%`,
    value: units.percent,
    least: 1 / 1.12,
  },
};
const FIELDS = [...new Set(Object.values(CHARTS).flatMap((chart) => [...chart.fields, chart.beside]).filter(Boolean))];

const at = [];
const values = Object.fromEntries(FIELDS.map((field) => [field, []]));
const drawn = [];

/* `history` is {at: [seconds], <field>: [...]}, oldest first. */
export function build(history) {
  readColours();
  windowSeconds = history.window ?? 300;
  at.push(...(history.at ?? []));
  for (const field of FIELDS) values[field].push(...(history[field] ?? at.map(() => null)));
  const make = () => {
    for (const section of document.querySelectorAll("[data-chart]")) drawn.push(one(section));
    new ResizeObserver(resize).observe(document.getElementById("main"));
  };
  document.fonts.ready.then(make);
  addEventListener("hearth:theme", () => {
    readColours();
    drawn.forEach((chart) => chart.plot.redraw(false));
  });
}

export function push(time, flow) {
  if (windowSeconds > 300 || (at.length && time <= at.at(-1))) return;
  if (at.length && time - at.at(-1) > 45) gap(time);
  at.push(time);
  for (const field of FIELDS) values[field].push(flow?.[field] ?? null);
  while (at.length && time - at[0] > windowSeconds) {
    at.shift();
    FIELDS.forEach((field) => values[field].shift());
  }
}
/* A hole in the data is a hole in the line. */
function gap(time) {
  at.push(time - 1);
  FIELDS.forEach((field) => values[field].push(null));
}

export function paint() {
  for (const chart of drawn) {
    chart.plot.setData(data(chart.def));
    if (chart.hover == null) chart.read();
  }
}

const data = (def) => [at, ...def.fields.map((field) => values[field])];

function one(section) {
  const def = CHARTS[section.dataset.chart];
  const box = section.querySelector(".plot");
  const chart = { def, box, hover: null };
  chart.read = () => read(chart, section);
  chart.plot = new window.uPlot(options(chart, box), data(def), box);
  chart.read();
  return chart;
}

function read(chart, section) {
  const n = chart.hover ?? at.length - 1;
  const text = chart.def.value(values[chart.def.fields[0]][n]);
  const title = section.querySelector("[data-v]");
  if (at.length && title.textContent !== text) title.textContent = text;
  if (!chart.def.aux || !at.length) return;
  const [word, format] = chart.def.aux;
  const strong = document.createElement("b");
  strong.textContent = format(values[chart.def.beside][n]);
  section.querySelector("[data-aux]").replaceChildren(`${word} `, strong);
}

function options(chart, box) {
  const wide = box.clientWidth >= 240;
  const axis = { show: wide, stroke: () => colour["ink-3"], font: "11px Geist, sans-serif", ticks: { show: false } };
  return {
    width: box.clientWidth,
    height: box.clientHeight,
    padding: [8, wide ? 12 : 6, wide ? 0 : 2, 0],
    legend: { show: false },
    cursor: { sync: { key: "hearth", setSeries: false }, y: false, drag: { x: false, y: false }, points: { size: 6, width: 1.5, fill: () => colour.surface } },
    scales: {
      x: { time: true, range: () => { const end = at.at(-1) ?? Date.now() / 1000; return [end - windowSeconds, end]; } },
      y: { range: (_u, _low, high) => [0, Math.max(high || 0, chart.def.least) * 1.12] },
    },
    axes: [
      { ...axis, size: 22, gap: 4, grid: { show: false }, space: 60, incrs: [60, 120, 300, 600, 1800, 3600, 7200, 14400, 21600, 43200, 86400], values: (u, marks) => marks.map((t) => (u.scales.x.max - t < windowSeconds / 21 ? "" : clock(t))) },
      { ...axis, size: 46, gap: 6, space: 30, grid: { stroke: () => colour.line, width: 1 }, values: (_u, marks) => marks.map(chart.def.axis) },
    ],
    series: [{}, ...chart.def.series],
    plugins: [{ hooks: { draw: [lastPoint], setCursor: [(u) => { chart.hover = u.cursor.idx; chart.read(); }] } }],
  };
}

function clock(time) {
  const date = new Date(time * 1000);
  return windowSeconds > 172_800 ? `${date.getDate()}.${date.getMonth() + 1}.` : date.toTimeString().slice(0, 5);
}

function lastPoint(u) {
  const n = at.length - 1;
  const value = u.data[1][n];
  if (value == null) return;
  const scale = devicePixelRatio;
  const [x, y] = [u.valToPos(at[n], "x", true), u.valToPos(value, "y", true)];
  const hue = u.series[1].stroke();
  for (const [radius, part] of [[6, 0.18], [2.6, 1]]) {
    u.ctx.beginPath();
    u.ctx.arc(x, y, radius * scale, 0, 7);
    u.ctx.fillStyle = alpha(hue, part);
    u.ctx.fill();
  }
}

function resize() {
  for (const { box, plot } of drawn)
    if (box.clientWidth && box.clientWidth !== plot.width) plot.setSize({ width: box.clientWidth, height: box.clientHeight });
}
