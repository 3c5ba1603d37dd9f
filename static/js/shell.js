/* What every page has: theme, drawer, palette, dialogs, toasts, copy, keys, running clocks. */

import * as units from "./units.js";

const $ = (selector, root = document) => root.querySelector(selector);
const say = (text) => ($("#say").textContent = text);

/* ---------- tabs ---------- */
/* On a phone the tabs scroll: begin where the tab of this page is seen. */
const here = $("#tabs [aria-current]");
if (here) {
  const [row, box] = [here.parentElement, here.getBoundingClientRect()];
  row.scrollLeft = box.left - row.getBoundingClientRect().left - (row.clientWidth - box.width) / 2;
}

/* ---------- theme ---------- */
export function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    if (theme === "system") localStorage.removeItem("theme");
    else localStorage.setItem("theme", theme);
  } catch {
    /* Storage is off: the choice holds for this page. */
  }
  dispatchEvent(new Event("hearth:theme"));
}
const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark" ||
  (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
$("[data-theme-switch]")?.addEventListener("click", () => setTheme(dark() ? "light" : "dark"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("hearth:theme")));

/* ---------- drawer on phones ---------- */
const side = $("#side");
const narrow = matchMedia("(max-width: 820px)");
const drawer = () => (narrow.matches ? side.setAttribute("popover", "") : side.removeAttribute("popover"));
if (side) {
  drawer();
  narrow.addEventListener("change", drawer);
  $("#burger").addEventListener("click", () => side.togglePopover());
}

/* ---------- toasts ---------- */
export function toast(text, level = "") {
  const box = document.createElement("div");
  box.className = `toast ${level}`;
  box.append(text, closer());
  $(".toasts").append(box);
  expire(box);
}
function closer() {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.close = "";
  button.textContent = "Close";
  return button;
}
/* An error stays until it is closed. */
function expire(box) {
  if (!box.classList.contains("error")) setTimeout(() => box.remove(), 5000);
}
document.querySelectorAll(".toast").forEach(expire);

/* ---------- copy ---------- */
async function copy(button) {
  const text = button.dataset.copyText ?? $(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text.trim());
  } catch {
    const area = document.createElement("textarea");
    area.value = text.trim();
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 1200);
  say("Copied");
}

/* ---------- the type-the-name dialog ---------- */
const ask = $("#ask");
function askFor(link) {
  const { ask: verb, name, what } = link.dataset;
  const form = $("form", ask);
  const field = $("[data-confirm]", ask);
  const yes = $("[data-yes]", ask);
  form.action = link.dataset.href ?? link.href;
  $("[data-verb]", ask).textContent = verb;
  $("[data-name]", ask).textContent = name;
  $("[data-what]", ask).textContent = what;
  yes.textContent = verb;
  field.value = "";
  yes.disabled = true;
  field.oninput = () => (yes.disabled = field.value.trim() !== name);
  ask.showModal();
  field.focus();
}

/* ---------- language tabs ---------- */
function selectTab(tab) {
  for (const other of tab.closest('[role="tablist"]').querySelectorAll('[role="tab"]')) {
    const on = other === tab;
    other.setAttribute("aria-selected", String(on));
    other.tabIndex = on ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !on;
  }
}

document.addEventListener("click", (event) => {
  const hit = (selector) => event.target.closest(selector);
  const link = hit("[data-ask]");
  if (link && ask) {
    event.preventDefault();
    askFor(link);
  } else if (hit("[data-copy],[data-copy-text]")) copy(hit("[data-copy],[data-copy-text]"));
  else if (hit("[data-close]")) hit(".toast").remove();
  else if (hit("[data-close-dialog]")) hit("dialog").close();
  else if (hit("[data-open]")) $(hit("[data-open]").dataset.open).showModal();
  else if (hit('[role="tab"]')) selectTab(hit('[role="tab"]'));
  else if (hit("[data-step]")) step(hit("[data-step]"));
});
document.addEventListener("keydown", (event) => {
  const tab = event.target.closest?.('[role="tab"]');
  const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!tab || !way) return;
  const all = [...tab.closest('[role="tablist"]').querySelectorAll('[role="tab"]')];
  const next = all[(all.indexOf(tab) + way + all.length) % all.length];
  selectTab(next);
  next.focus();
});
function step(button) {
  const input = $("input[type=number]", button.closest("form"));
  input.value = Math.min(+input.max, Math.max(+input.min, +input.value + +button.dataset.step));
}

/* Buttons of the shared form come back to the page as it is filtered now. */
$("#act")?.addEventListener("submit", () => ($("#act").elements.next.value = location.pathname + location.search));

/* ---------- keys ---------- */
let lead = "";
addEventListener("keydown", (event) => {
  const typing = /INPUT|TEXTAREA|SELECT/.test(event.target.tagName) || event.target.isContentEditable;
  if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === "k") {
    event.preventDefault();
    openPalette();
    return;
  }
  if (typing || event.metaKey || event.ctrlKey || event.altKey) return;
  const went = { d: "deployments", c: "catalog", h: "hosts", o: "overview", p: "playground", k: "keys", u: "usage", a: "activity" }[event.key];
  if (lead === "g" && went) location.assign($(`[data-nav="${went}"]`).href);
  else if (event.key === "/" && $("#q")) {
    event.preventDefault();
    $("#q").focus();
  } else if (event.key === "p") dispatchEvent(new Event("hearth:pause"));
  else if (event.key === "?") $("#keys").showModal();
  lead = event.key;
  setTimeout(() => (lead = ""), 800);
});

/* ---------- command palette ---------- */
const palette = $("#pal");
const field = palette && $("input", palette);
const list = palette && $("#pal-list");
let groups = [];
let options = [];
let chosen = 0;

async function openPalette() {
  if (!palette || palette.open) return;
  field.value = "";
  groups = [{ title: "Pages", items: pages() }];
  fill();
  palette.showModal();
  const reply = await fetch(palette.dataset.source);
  if (!reply.ok) return;
  groups.push(...(await reply.json()).groups);
  fill();
}
const pages = () =>
  [...document.querySelectorAll("[data-nav]")].map((link) => ({
    label: link.firstElementChild.nextSibling.textContent.trim(), note: "", href: link.href, use: $("use", link).getAttribute("href"),
  }));

function fill() {
  const words = field.value.toLowerCase().split(/\s+/);
  const sprite = $("use").getAttribute("href").split("#")[0];
  list.replaceChildren();
  options = [];
  chosen = 0;
  for (const group of groups) {
    const found = group.items.filter((item) => words.every((word) => `${item.label} ${item.note}`.toLowerCase().includes(word))).slice(0, field.value ? 8 : group.title === "Deploy" ? 3 : 6);
    if (!found.length) continue;
    const title = document.createElement("li");
    title.className = "h";
    title.role = "presentation";
    title.textContent = group.title;
    list.append(title, ...found.map((item) => option(item, sprite)));
  }
  if (!options.length) list.append(nothing());
  mark();
}
function nothing() {
  const item = document.createElement("li");
  item.className = "h";
  item.role = "presentation";
  item.textContent = "Nothing found";
  return item;
}
function option(item, sprite) {
  const li = document.createElement("li");
  li.role = "option";
  li.id = `option-${options.length}`;
  li.dataset.href = item.href;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "ico");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(svg.namespaceURI, "use");
  use.setAttribute("href", item.use ?? `${sprite}#${item.icon}`);
  svg.append(use);
  const note = document.createElement("span");
  note.className = "dim";
  note.textContent = item.note;
  li.append(svg, item.label, note);
  options.push(li);
  return li;
}
function mark() {
  options.forEach((li, n) => li.setAttribute("aria-selected", String(n === chosen)));
  field.setAttribute("aria-activedescendant", options[chosen]?.id ?? "");
  options[chosen]?.scrollIntoView({ block: "nearest" });
}
if (palette) {
  $("#find").addEventListener("click", openPalette);
  field.addEventListener("input", fill);
  field.addEventListener("keydown", (event) => {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (way) {
      event.preventDefault();
      chosen = Math.min(options.length - 1, Math.max(0, chosen + way));
      mark();
    } else if (event.key === "Enter" && options[chosen]) {
      event.preventDefault();
      palette.close();
      location.assign(options[chosen].dataset.href);
    }
  });
  list.addEventListener("click", (event) => {
    const li = event.target.closest("[data-href]");
    if (!li) return;
    palette.close();
    location.assign(li.dataset.href);
  });
  palette.addEventListener("click", (event) => event.target === palette && palette.close());
}

/* ---------- times ---------- */
function refreshTimes() {
  if (document.hidden) return;
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const past = (Date.now() - Date.parse(time.dateTime)) / 1000;
    const text = past < 5 ? "just now" : `${units.duration(past).split(" ").slice(0, 2).join(" ")} ago`;
    if (time.textContent !== text) time.textContent = text;
  }
}
setInterval(refreshTimes, 10_000);
