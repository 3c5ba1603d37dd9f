/* Filters a list as one types: the form's own URL is fetched, so a filter is a link as well. */

import { morph } from "./morph.js";

const PAUSE_MS = 200;
let timer = 0;
let newest = 0;

document.addEventListener("input", (event) => {
  const form = event.target.closest("form[data-filter]");
  if (!form) return;
  clearTimeout(timer);
  timer = setTimeout(() => show(form), event.target.type === "checkbox" || event.target.tagName === "SELECT" ? 0 : PAUSE_MS);
});

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-filter]");
  if (!form) return;
  event.preventDefault();
  show(form, event.submitter);
});

async function show(form, submitter) {
  const data = new FormData(form);
  if (submitter?.name) data.set(submitter.name, submitter.value);
  const url = new URL(location.href);
  url.search = "";
  for (const [name, value] of data) if (value) url.searchParams.set(name, value);
  const mine = ++newest;
  history.replaceState(null, "", url);
  const reply = await fetch(url, { headers: { "X-Part": "live" } });
  if (mine !== newest || !reply.ok) return;
  morph(form.closest('[data-part="live"]'), await reply.text());
  dispatchEvent(new Event("hearth:part"));
}
