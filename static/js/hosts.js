/* Hosts: live gauges. */

import * as live from "./live.js";
import { meter, set } from "./rows.js";
import * as units from "./units.js";

live.start({ onNumbers: () => document.querySelectorAll("[data-host]").forEach(paint) });

function paint(card) {
  const host = live.row("hosts", card.dataset.host);
  if (!host) return;
  const h = (key) => card.querySelector(`[data-h="${key}"]`);
  set(h("cpu"), units.percent(host.cpu_ratio));
  meter(card.querySelector('[data-m="cpu"]'), host.cpu_ratio);
  set(h("memory"), units.bytes(host.memory_used_bytes));
  meter(card.querySelector('[data-m="memory"]'), host.memory_used_bytes / +h("memory").dataset.total);
  set(h("disk"), units.bytes(host.disk_free_bytes));
  host.gpus.forEach(([, busy], n) => set(card.querySelector(`[data-gpu-busy="${n}"]`), units.percent(busy)));
}
