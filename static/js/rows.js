/* Paints the numbers of deployments' table rows. */

import * as live from "./live.js";
import * as units from "./units.js";

const SPARK_POINTS = 30;
const STEP_FRAMES = 10;
const lines = new Map();
let frames = 0;

export function set(element, text, tone = "") {
  if (!element) return;
  if (element.textContent !== text) element.textContent = text;
  if ((element.dataset.tone ?? "") === tone) return;
  element.dataset.tone = tone;
  element.classList.remove("dim", "hot", "crit");
  if (tone) element.classList.add(tone);
}

export function meter(element, ratio) {
  element?.lastElementChild.setAttribute("width", `${(Math.min(Math.max(ratio ?? 0, 0), 1) * 100).toFixed(1)}%`);
}

/* Adds to the sparklines what the server drew of them; a point is ten seconds. Called once a frame. */
export function remember() {
  const next = frames++ % STEP_FRAMES === 0;
  for (const tr of document.querySelectorAll("#rows tr[data-name]")) {
    const line = lines.get(tr.dataset.name) ?? tr.dataset.spark.split(",").filter(Boolean).map(Number);
    const value = live.row("deployments", tr.dataset.name)?.output_tokens_per_second ?? 0;
    if (next) line.push(value);
    else line[line.length - 1] = value;
    if (line.length > SPARK_POINTS) line.shift();
    lines.set(tr.dataset.name, line);
  }
}

export function paintAll() {
  for (const tr of document.querySelectorAll("#rows tr[data-name]")) paintRow(tr);
}

function paintRow(tr) {
  const { name, limit, usd, ready } = tr.dataset;
  const flow = live.row("deployments", name);
  const on = ready !== "0";
  const k = (key) => tr.querySelector(`[data-k="${key}"]`);
  const inFlight = flow?.in_flight ?? 0;
  const queued = flow?.queued ?? 0;
  const ratio = +limit ? inFlight / +limit : 0;
  set(k("in_flight"), on ? `${units.count(inFlight)}/${limit}` : units.NONE, on ? (ratio > 0.97 ? "hot" : "") : "dim");
  meter(tr.querySelector('[data-m="load"]'), ratio);
  set(k("queued"), units.count(queued), queued > 20 ? "crit" : queued > 4 ? "hot" : queued ? "" : "dim");
  const tps = flow?.output_tokens_per_second ?? 0;
  set(k("tps"), on ? units.rate(tps) : units.NONE, on && tps ? "" : "dim");
  const ttft = flow?.ttft_p95_seconds;
  set(k("ttft"), units.seconds(ttft), ttft == null ? "dim" : "");
  const hits = flow?.prefix_cache_hit_ratio;
  set(k("hits"), units.percent(hits), hits == null ? "dim" : "");
  const cost = units.perMillion(+usd, tps);
  set(k("cost"), units.usd(cost), cost == null ? "dim" : "");
  spark(tr.querySelector('[data-s="tps"]'), lines.get(name) ?? []);
}

function spark(svg, values) {
  if (!svg || values.length < 2) return;
  const top = Math.max(1, ...values) * 1.1;
  const offset = SPARK_POINTS - values.length;
  const path = values.map((v, n) => `${n ? "L" : "M"}${(offset + n) * 2} ${(23 - (v / top) * 21).toFixed(1)}`).join("");
  svg.querySelector(".l").setAttribute("d", path);
  svg.querySelector(".a").setAttribute("d", `${path}V24H${offset * 2}Z`);
}
