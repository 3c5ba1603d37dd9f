/* Ask a knowledge base: the answer streams, its citations are links, and everything that led to it
   stands beside it. Text of documents and models becomes text nodes only. */

import { render } from "./markdown.js";
import * as units from "./units.js";

const $ = (id) => document.getElementById(id);
const place = $("asking");
const token = document.querySelector('meta[name="csrf-token"]').content;
const HUES = ["c1", "c2", "c3", "c4", "c5", "c6"];
let conversation = null;
let running = null;
let code = {};

if (place) begin();

function begin() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("prompt").value.trim();
    if (text && !running) (event.submitter?.value === "search" || !$("model") ? find : ask)(text);
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("composer").requestSubmit($("send") ?? $("find-only"));
  });
  $("stop").addEventListener("click", () => running?.abort());
  addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
  $("clear").addEventListener("click", clear);
  $("model")?.addEventListener("change", () => (conversation = null));
  document.querySelectorAll("[data-lang]").forEach((button) => button.addEventListener("click", () => show(button.dataset.lang)));
}

function clear() {
  running?.abort();
  conversation = null;
  $("messages").replaceChildren($("hello"));
  $("hello").hidden = false;
}

async function find(text) {
  said("user", text);
  busy(new AbortController());
  try {
    const reply = await call("search/", { query: text, profile: $("profile").value });
    const trace = await reply.json();
    told(trace);
    said("assistant", `${trace.hits.length} passages found.`);
  } catch (error) {
    failed(error);
  }
  busy(null);
}

async function ask(text) {
  said("user", text);
  const body = said("assistant", "").firstElementChild;
  busy(new AbortController());
  let answer = "";
  try {
    const reply = await call("ask/", { question: text, deployment: $("model").value, profile: $("profile").value, conversation, stream: true });
    for await (const { event, data } of events(reply.body)) {
      if (event === "trace") told(data);
      else if (event === "delta") draw(body, (answer += data.text));
      else if (event === "error") throw new Error(data.detail);
      else if (event === "done") done(data, body);
    }
  } catch (error) {
    failed(error);
  }
  busy(null);
  $("prompt").focus();
}

async function call(path, body) {
  const reply = await fetch(place.dataset.api + path, {
    method: "POST",
    signal: running.signal,
    headers: { "Content-Type": "application/json", "X-CSRFToken": token },
    body: JSON.stringify(body),
  });
  if (reply.ok) return reply;
  const problem = await reply.json().catch(() => ({}));
  throw new Error(problem.errors?.[0]?.message ?? problem.detail ?? `The server answered ${reply.status}.`);
}

async function* events(stream) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = block.match(/^event: (.*)$/m)?.[1];
      const data = block.match(/^data: (.*)$/m)?.[1];
      if (event && data) yield { event, data: JSON.parse(data) };
    }
  }
}

function busy(controller) {
  running = controller;
  for (const id of ["send", "find-only"]) if ($(id)) $(id).hidden = !!controller;
  $("stop").hidden = !controller;
  $("say").textContent = controller ? "Searching" : "Done";
}

function said(role, text) {
  $("hello").hidden = true;
  if (role === "user") $("prompt").value = "";
  const box = make("article", `message ${role}`, make("div", "body", text));
  $("messages").append(box);
  box.scrollIntoView({ block: "end" });
  return box;
}

function failed(error) {
  const line = make("p", error.name === "AbortError" ? "notice" : "notice bad", error.name === "AbortError" ? "Stopped" : error.message);
  line.role = "status";
  $("messages").append(line);
}

function draw(body, text) {
  body.replaceChildren(...render(text));
  $("messages").scrollTop = $("messages").scrollHeight;
}

/* What was found: the passages with their places. */
function told(trace) {
  $("passages-line").textContent = `${trace.hits.length} of build ${trace.build}, profile ${trace.profile}`;
  $("hits").replaceChildren(...trace.hits.map(passage));
  $("notices").replaceChildren(...trace.notices.map((text) => make("p", "hint pad", text)));
  stages(trace.timings);
  $("prefix").hidden = true;
  if (trace.take_home) keepCode(trace.take_home);
}

function passage(hit) {
  const link = make("a", "", hit.page ? `${hit.document}, page ${hit.page}` : hit.document);
  link.href = `${place.dataset.document}${hit.document_id}/?chunk=${hit.chunk}#passage`;
  const up = thumb(hit, true);
  const down = thumb(hit, false);
  const head = make("div", "hit-head", make("b", "num", String(hit.rank)), link, make("span", "grow", ""), up, down);
  const places = make("dl", "places num");
  const add = (name, value) => places.append(make("div", "", make("dt", "", name), make("dd", "", value)));
  add("Vectors", hit.dense ? `${hit.dense.rank} (${hit.dense.score.toFixed(3)})` : "–");
  add("Words", hit.lexical ? `${hit.lexical.rank} (${hit.lexical.score.toFixed(2)})` : "–");
  add("Fused", String(hit.fused.rank));
  if (hit.rerank) add("Reranked", `${hit.rerank.rank} (${hit.rerank.moved >= 0 ? "+" : ""}${hit.rerank.moved})`);
  add("Tokens", `${hit.tokens_exact ? "" : "≈ "}${units.count(hit.tokens)}`);
  const item = make("li", "hit", head, places, make("p", "quote", hit.text.length > 320 ? `${hit.text.slice(0, 319)}…` : hit.text));
  item.id = `hit-${hit.chunk}`;
  if (hit.matched_terms.length) item.append(make("p", "terms", ...hit.matched_terms.map((term) => make("span", "", term))));
  for (const flag of hit.flags) item.append(make("p", "hot", flag));
  return item;
}

function thumb(hit, up) {
  const button = make("button", "btn ghost sm", up ? "Good" : "Bad");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `${up ? "Good" : "Bad"} passage ${hit.rank}`);
  button.addEventListener("click", async () => {
    const question = [...document.querySelectorAll(".message.user")].at(-1)?.textContent ?? "";
    const reply = await fetch(`${place.dataset.api}thumbs/`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": token },
      body: JSON.stringify({ question, document: hit.document, up }),
    });
    if (!reply.ok) return;
    for (const one of button.parentElement.querySelectorAll("[aria-pressed]")) one.setAttribute("aria-pressed", String(one === button));
    $("say").textContent = "Kept as a judgement";
  });
  return button;
}

/* The whole answer: citations become links, and the figures are drawn. */
function done(result, body) {
  conversation = result.conversation;
  draw(body, result.answer);
  cite(body, new Map(result.citations.map((one) => [one.number, one])));
  if (result.unknown_citations.length) body.append(make("p", "notice warn", `It cites ${result.unknown_citations.map((n) => `[${n}]`).join(", ")}, which it was never given.`));
  if (result.abstained) body.append(make("p", "hint", "The passages do not hold the answer, and the model said so."));
  const stats = make("p", "stats num", summary(result));
  body.parentElement.append(stats);
  stages(result.timings);
  if (result.prefix) prefix(result.prefix);
  keepCode(result.take_home);
  price(result.run, stats);
}

function cite(body, known) {
  const walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) if (/\[\d+\]/.test(walker.currentNode.data)) nodes.push(walker.currentNode);
  for (const node of nodes)
    node.replaceWith(
      ...node.data.split(/(\[\d+\])/).map((piece) => {
        const one = known.get(+piece.slice(1, -1));
        if (!/^\[\d+\]$/.test(piece) || !one) return piece;
        const link = make("a", "cite", piece);
        link.href = `${place.dataset.document}${one.document_id}/?chunk=${one.chunk}#passage`;
        link.title = one.page ? `${one.document}, page ${one.page}` : one.document;
        return link;
      }),
    );
}

function summary({ timings, usage, replica }) {
  const parts = [];
  const add = (words) => words && parts.push(words);
  add(timings.first_token_seconds != null && `First token ${units.seconds(timings.first_token_seconds)}`);
  add(usage.prompt_tokens != null && `${units.count(usage.prompt_tokens)} prompt${usage.cached_tokens == null ? "" : `, ${units.count(usage.cached_tokens)} cached`}`);
  add(usage.output_tokens != null && `${units.count(usage.output_tokens)} output`);
  add(replica && `replica ${replica.slice(0, 8)}`);
  return parts.join(" · ");
}

/* Usage records come a moment after the answer. */
async function price(run, stats) {
  for (const wait of [1500, 3000, 6000]) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    const reply = await fetch(`${place.dataset.api}runs/${run}/`);
    const cost = reply.ok ? (await reply.json()).cost_usd : null;
    if (cost == null) continue;
    stats.textContent += ` · ${units.usd(cost)}`;
    return;
  }
}

function stages(timings) {
  const whole = timings.total_seconds ?? Object.values(timings).reduce((sum, value) => sum + value, 0);
  const parts = Object.entries(timings)
    .filter(([name, value]) => !["total_seconds", "first_token_seconds"].includes(name) && value > 0)
    .map(([name, value]) => ({ name: name.replace(/_seconds$/, "").replaceAll("_", " "), size: value, text: units.seconds(value) }));
  $("stages").hidden = !parts.length;
  $("whole").textContent = units.seconds(whole);
  bar("stage", parts);
}

function prefix({ segments, prompt_tokens, predicted_tokens, reported_tokens, broke }) {
  $("prefix").hidden = false;
  $("prefix-line").textContent = `${units.count(prompt_tokens)} tokens, ${units.count(predicted_tokens)} expected from the cache, ${reported_tokens == null ? "not told by the engine" : `${units.count(reported_tokens)} reported`}`;
  bar("prefix", segments.map(({ name, tokens, known }) => ({ name, size: tokens, text: `${units.count(tokens)}${known ? `, ${units.count(known)} seen before` : ""}` })));
  $("prefix-broke").textContent = broke;
}

function bar(name, parts) {
  const whole = parts.reduce((sum, { size }) => sum + size, 0) || 1;
  let x = 0;
  $(`${name}-bar`).replaceChildren(
    ...parts.map(({ size }, n) => {
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const width = (size / whole) * 100;
      for (const [key, value] of Object.entries({ x, y: 0, width, height: 10, class: HUES[n % HUES.length] })) rect.setAttribute(key, value);
      x += width;
      return rect;
    }),
  );
  $(`${name}-key`).replaceChildren(...parts.map(({ name, text }, n) => make("div", HUES[n % HUES.length], make("dt", "", name), make("dd", "", text))));
}

function keepCode(snippets) {
  code = snippets;
  $("take-home").hidden = false;
  show(document.querySelector('[data-lang][aria-pressed="true"]').dataset.lang);
}

function show(language) {
  $("snippet").textContent = code[language] ?? "";
  document.querySelectorAll("[data-lang]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.lang === language)));
}

function make(tag, className, ...nodes) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...nodes);
  return element;
}
