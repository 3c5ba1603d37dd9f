/* The chat: one streamed request at a time, with its own numbers under each answer. */

import * as live from "./live.js";
import { render } from "./markdown.js";
import * as units from "./units.js";

const $ = (id) => document.getElementById(id);
const chat = document.querySelector("[data-stream]");
const token = document.querySelector('meta[name="csrf-token"]').content;
const history = [];
let running = null;

if (chat) begin();

function begin() {
  live.start({ onPart: showState });
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("prompt").value.trim();
    if (text && !running) ask(text);
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  });
  $("stop").addEventListener("click", () => running?.abort());
  $("clear").addEventListener("click", clear);
  $("temperature").addEventListener("input", () => ($("temperature-value").value = $("temperature").value));
  $("model").addEventListener("change", choose);
  $("hello").addEventListener("click", (event) => event.target.dataset.prompt && !running && ask(event.target.dataset.prompt));
  addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
}

function choose() {
  const url = new URL(location.href);
  url.searchParams.set("model", $("model").value);
  window.history.replaceState(null, "", url);
  $("model-link").firstElementChild.href = `/deployments/${$("model").value}/`;
  showState();
}

function showState() {
  for (const badge of document.querySelectorAll("[data-model-state]")) badge.hidden = badge.dataset.modelState !== $("model").value;
}

function clear() {
  running?.abort();
  history.length = 0;
  $("messages").replaceChildren($("hello"));
  $("hello").hidden = false;
}

async function ask(text) {
  $("hello").hidden = true;
  $("prompt").value = "";
  add("user", text);
  history.push({ role: "user", content: text });
  const view = answerView();
  busy(new AbortController());
  const answer = { text: "", startedAt: performance.now(), firstAt: null, lastAt: null, usage: null, headers: null };
  try {
    await stream(answer, view);
  } catch (error) {
    if (error.name === "AbortError") view.note("Stopped");
    else view.fail(error.message);
  }
  busy(null);
  view.finish(answer);
  if (answer.text) history.push({ role: "assistant", content: answer.text });
  else history.pop();
  $("prompt").focus();
}

function busy(controller) {
  running = controller;
  $("send").hidden = !!controller;
  $("stop").hidden = !controller;
  $("say").textContent = controller ? "The model answers" : "The answer is complete";
}

async function stream(answer, view) {
  const system = $("system").value.trim();
  const reply = await fetch(chat.dataset.stream, {
    method: "POST",
    signal: running.signal,
    headers: { "Content-Type": "application/json", "X-CSRFToken": token },
    body: JSON.stringify({
      model: $("model").value,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...history],
      temperature: +$("temperature").value,
      max_tokens: +$("max-tokens").value || null,
    }),
  });
  answer.headers = reply.headers;
  if (!reply.ok) throw new Error(await refusal(reply));
  for await (const event of events(reply.body)) hear(event, answer, view);
}

async function refusal(reply) {
  const text = await reply.text();
  try {
    const body = JSON.parse(text);
    return body.error?.message ?? body.detail ?? text;
  } catch {
    return reply.status === 403 ? "Your session has ended; reload the page and sign in." : `The gateway answered ${reply.status}.`;
  }
}

/* Yields the data of each server-sent event; comments tell how far a waking model is. */
async function* events(body) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of iterate(body)) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
      else if (line.startsWith("data:") && !line.includes("[DONE]")) yield JSON.parse(line.slice(5));
    }
  }
}

async function* iterate(body) {
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function hear(event, answer, view) {
  if (event.comment) return view.wait(event.comment);
  if (event.error) throw new Error(event.error.message ?? "The stream broke.");
  if (event.usage) answer.usage = event.usage;
  const piece = event.choices?.[0]?.delta?.content;
  if (!piece) return;
  answer.lastAt = performance.now();
  answer.firstAt ??= answer.lastAt;
  answer.text += piece;
  view.show(answer.text);
}

function add(role, text) {
  const box = document.createElement("article");
  box.className = `message ${role}`;
  const body = document.createElement("div");
  body.className = "body";
  body.textContent = text;
  box.append(body);
  $("messages").append(box);
  box.scrollIntoView({ block: "end" });
  return box;
}

/* Draws at most once a frame; blocks that are complete are not drawn again. */
function answerView() {
  const box = add("assistant", "");
  const body = box.firstElementChild;
  const stats = document.createElement("p");
  stats.className = "stats num";
  box.append(stats);
  let text = "";
  let due = false;
  let settled = 0;
  const draw = () => {
    due = false;
    const list = $("messages");
    const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 60;
    const cut = text.lastIndexOf("\n\n");
    const fences = text.slice(0, cut + 1).split("```").length - 1;
    if (cut > settled && fences % 2 === 0) {
      body.querySelectorAll("[data-open]").forEach((node) => node.remove());
      body.append(...render(text.slice(settled, cut)));
      settled = cut;
    }
    body.querySelectorAll("[data-open]").forEach((node) => node.remove());
    for (const node of render(text.slice(settled))) {
      node.dataset.open = "";
      body.append(node);
    }
    if (atEnd) list.scrollTop = list.scrollHeight;
  };
  return {
    show(whole) {
      text = whole;
      if (!due) requestAnimationFrame(draw);
      due = true;
    },
    wait: (comment) => (stats.textContent = comment),
    note: (word) => box.append(notice("notice", word)),
    fail: (message) => box.append(notice("notice bad", message)),
    finish(answer) {
      if (answer.text) draw();
      stats.textContent = summary(answer);
    },
  };
}

function notice(kind, text) {
  const line = document.createElement("p");
  line.className = kind;
  line.role = "status";
  line.textContent = text;
  return line;
}

function summary({ startedAt, firstAt, lastAt, usage, headers }) {
  if (!firstAt) return "";
  const parts = [`First token ${units.seconds((firstAt - startedAt) / 1000)}`];
  const span = (lastAt - firstAt) / 1000;
  if (usage && span > 0) parts.push(`${units.rate((usage.completion_tokens - 1) / span)} tokens/s`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    parts.push(`${units.count(usage.prompt_tokens)} prompt${cached == null ? "" : `, ${units.count(cached)} cached`}`);
    parts.push(`${units.count(usage.completion_tokens)} output`);
  }
  const replica = headers?.get("x-hearth-replica");
  if (replica) parts.push(`replica ${replica.slice(0, 8)}`);
  return parts.join(" · ");
}
