/* The page's one socket: numbers once a second, and "something changed", upon which the live part
   of this page is fetched again. Reconnects with growing, jittered pauses and goes on where it was.
   A page calls start({ onNumbers, onPart }). */

import { morph } from "./morph.js";

const STALE_MS = 4000;
const PAUSES_MS = [250, 500, 1000, 2000, 5000, 10000];
const SIGNED_OUT = 4401;
const HIDDEN_MS = 60_000;

const button = document.getElementById("live");
const word = button?.querySelector("[data-live-word]");
const dot = button?.querySelector("i");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const topic = document.body.dataset.live;

const tables = { fleet: new Map(), deployments: new Map(), replicas: new Map(), hosts: new Map() };
const state = { epoch: "", seq: 0, fields: {}, paused: false, heardAt: Date.now(), tries: 0, stale: false };
let handlers = {};
let socket = null;
let wanted = false;
let fetching = null;
let again = false;
let leaving = 0;
let reopening = 0;

export function start(given) {
  handlers = given;
  if (!topic) return;
  open();
  button?.addEventListener("click", () => pause(!state.paused));
  addEventListener("hearth:pause", () => pause(!state.paused));
  setInterval(tell, 1000);
  document.addEventListener("visibilitychange", () => {
    clearTimeout(leaving);
    if (document.hidden) {
      leaving = setTimeout(() => socket?.close(), HIDDEN_MS);
      return;
    }
    if (!socket) open();
    if (wanted) renew();
    paint();
  });
}

/* Values of one row by field name; undefined if there is no such row. */
export function row(table, name) {
  const values = tables[table].get(name);
  if (!values) return undefined;
  return Object.fromEntries(state.fields[table].map((field, n) => [field, values[n]]));
}

function open() {
  clearTimeout(reopening);
  const url = new URL("/ws/live/", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("topic", topic);
  url.searchParams.set("epoch", state.epoch);
  url.searchParams.set("seq", state.seq);
  const missed = state.tries > 0 || state.epoch !== "";
  socket = new WebSocket(url);
  socket.onopen = () => {
    state.tries = 0;
    if (missed) renew();
  };
  socket.onmessage = (event) => hear(JSON.parse(event.data));
  socket.onclose = (event) => {
    socket = null;
    if (event.code === SIGNED_OUT) location.reload();
    else if (!document.hidden) reopening = setTimeout(open, PAUSES_MS[Math.min(state.tries++, PAUSES_MS.length - 1)] * (0.5 + Math.random()));
  };
}

function hear(message) {
  if (message.type === "changed") return state.paused || document.hidden ? (wanted = true) : renew();
  Object.assign(state, { epoch: message.epoch, seq: message.seq, heardAt: Date.now(), stale: !!message.stale });
  if (message.fields) state.fields = message.fields;
  for (const [name, table] of Object.entries(tables)) {
    if (message.type === "snapshot") table.clear();
    for (const [key, values] of Object.entries(message[name] ?? {}))
      if (values) table.set(key, values);
      else table.delete(key);
  }
  if (!state.paused && !document.hidden && !calm.matches)
    dot?.animate([{ opacity: 1 }, { opacity: 0.3 }, { opacity: 1 }], 320);
  handlers.onFrame?.(message.at);
  paint();
  tell();
}

let due = false;
function paint() {
  if (due || state.paused || document.hidden || !state.epoch) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    const from = performance.now();
    handlers.onNumbers?.();
    (window.hearthPaint ??= []).push(performance.now() - from);
  });
}

/* One fetch at a time; a change that arrives meanwhile asks for one more. */
export async function renew() {
  const part = document.querySelector('[data-part="live"]');
  wanted = false;
  if (!part) return;
  if (fetching) {
    again = true;
    return;
  }
  fetching = fetch(part.dataset.url ?? location.href, { headers: { "X-Part": "live" } });
  try {
    const reply = await fetching;
    if (reply.redirected) return location.reload();
    if (reply.status === 404) return gone();
    if (reply.ok) {
      morph(part, await reply.text());
      recount(JSON.parse(reply.headers.get("X-Counts")));
      handlers.onPart?.();
      paint();
      dispatchEvent(new Event("hearth:part"));
    }
  } catch {
    wanted = true;
  } finally {
    fetching = null;
  }
  if (again) {
    again = false;
    renew();
  }
}

/* The navigation is no part of what is renewed; its counts come in a header. */
function recount(counts) {
  for (const [key, number] of Object.entries(counts ?? {})) {
    const place = document.querySelector(`[data-nav="${key}"] .n`);
    if (place) place.textContent = number;
  }
}

function gone() {
  const up = document.querySelector(".crumbs a");
  if (up) location.assign(up.href);
}

function pause(paused) {
  state.paused = paused;
  button?.setAttribute("aria-pressed", String(!paused));
  document.getElementById("say").textContent = paused ? "Live updates paused" : "Live updates on";
  if (!paused && wanted) renew();
  tell();
  paint();
}

function tell() {
  if (!button) return;
  const silent = Date.now() - state.heardAt;
  const old = silent > STALE_MS;
  const text = state.paused ? "Paused" : !socket || socket.readyState !== 1 ? "Reconnecting" : old ? `No data for ${Math.round(silent / 1000)} s` : state.stale ? "No numbers" : "Live";
  if (word.textContent !== text) word.textContent = text;
  button.dataset.state = !state.paused && text !== "Live" ? "stale" : "";
  document.body.classList.toggle("silent", silent > 10000 && !state.paused);
}
