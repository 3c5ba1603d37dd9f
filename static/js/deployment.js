/* One deployment: charts, replicas' numbers, the log of a start. */

import * as charts from "./charts.js";
import * as live from "./live.js";
import { meter, set } from "./rows.js";
import * as units from "./units.js";

const LOG_MS = 1500;
const name = document.querySelector("[data-name]").dataset.name;
let following = null;

charts.build(JSON.parse(document.getElementById("history").textContent));
live.start({
  onFrame: (at) => charts.push(at, live.row("deployments", name) ?? idle()),
  onNumbers: paint,
  onPart: followLog,
});
followLog();
document.querySelectorAll(".failure .log").forEach((box) => (box.scrollTop = box.scrollHeight));

/* A deployment without traffic has no row: that is zero, not unknown. */
function idle() {
  return { in_flight: 0, queued: 0, output_tokens_per_second: 0, prompt_tokens_per_second: 0 };
}

function paint() {
  charts.paint();
  const flow = live.row("deployments", name) ?? idle();
  const n = (key) => document.querySelector(`[data-n="${key}"]`);
  set(n("hits"), units.percent(flow.prefix_cache_hit_ratio));
  meter(document.querySelector('[data-m="hits"]'), flow.prefix_cache_hit_ratio);
  set(n("cost"), units.usd(units.perMillion(+n("cost").dataset.usd, flow.output_tokens_per_second)));
  set(n("failed"), units.rate((flow.failed_per_second ?? 0) * 60));
  document.querySelectorAll("tr[data-replica]").forEach(paintReplica);
}

function paintReplica(tr) {
  const numbers = live.row("replicas", tr.dataset.replica);
  if (!numbers) return;
  const k = (key) => tr.querySelector(`[data-k="${key}"]`);
  set(k("in_flight"), units.count(numbers.in_flight));
  set(k("tps"), units.rate(numbers.output_tokens_per_second));
  set(k("kv"), units.percent(numbers.kv_cache_usage_ratio));
  set(k("memory"), units.bytes(numbers.memory_bytes));
}

/* ---------- log of a start: asked of the host while it lasts, never of an engine ---------- */
async function followLog() {
  const box = document.querySelector("[data-log]");
  if (!box || following) return;
  following = box;
  let read = "";
  while (box.isConnected) {
    if (!document.hidden) read = (await ask(box, read)) ?? "";
    await new Promise((done) => setTimeout(done, read ? 300 : LOG_MS));
  }
  following = null;
}

/* Returns the id of a read that is not answered yet. */
async function ask(box, read) {
  try {
    const reply = await fetch(`${box.dataset.log}?read=${read}`);
    const tail = await reply.json();
    if (tail.pending) return tail.pending;
    show(box, tail.lines, tail.error);
  } catch {
    /* The next round asks again. */
  }
  return "";
}

function show(box, lines, error) {
  const text = lines.length ? lines.join("\n") : error;
  if (!text || box.textContent === text) return;
  const atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 24;
  box.textContent = text;
  if (atEnd) box.scrollTop = box.scrollHeight;
}

/* ---------- the clock of a start runs between two updates ---------- */
setInterval(() => {
  for (const clock of document.querySelectorAll("[data-clock]")) {
    clock.dataset.clock = +clock.dataset.clock + 1;
    clock.textContent = units.duration(+clock.dataset.clock);
  }
}, 1000);
