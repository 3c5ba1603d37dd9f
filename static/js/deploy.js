/* Order in detail: asks where the wish fits as it is typed. */

import { morph } from "./morph.js";

const form = document.querySelector("form[data-check]");
const answer = document.querySelector('[data-part="live"]');
let timer = 0;
let newest = 0;

form.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(check, 300);
});

async function check() {
  const url = new URL(form.dataset.check, location.href);
  for (const [name, value] of new FormData(form))
    if (value && name !== "csrfmiddlewaretoken") url.searchParams.set(name, value);
  const mine = ++newest;
  const reply = await fetch(url, { headers: { "X-Part": "live" } });
  if (reply.ok && mine === newest) morph(answer, await reply.text());
}
