/* Turns one piece of the page into what the server sent, touching only what differs: focus, open
   <details>, charts (data-keep) and what a person types stay. Siblings that come and go need an id:
   without one, a piece is matched by its place, tag and class. */

const keep = (node) => node.nodeType === 1 && (node.hasAttribute("data-keep") || node === document.activeElement);

export function morph(target, html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  children(target, fresh.content);
}

function children(old, fresh) {
  const wanted = new Set([...fresh.children].map((e) => e.id));
  for (const child of [...old.children]) if (child.id && !wanted.has(child.id)) child.remove();
  const byId = new Map([...old.children].filter((e) => e.id).map((e) => [e.id, e]));
  let here = old.firstChild;
  for (const node of [...fresh.childNodes]) {
    const match = (node.id && byId.get(node.id)) || (alike(here, node) ? here : null);
    if (!match) {
      old.insertBefore(node, here);
      continue;
    }
    if (match === here) here = here.nextSibling;
    else old.insertBefore(match, here);
    update(match, node);
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

function alike(a, b) {
  if (!a || a.nodeType !== b.nodeType || a.nodeName !== b.nodeName) return false;
  return a.nodeType !== 1 || (a.id === b.id && a.getAttribute("class") === b.getAttribute("class"));
}

function update(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== 1) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (keep(old)) return;
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && !(name === "open" && old.tagName === "DETAILS")) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (old.getAttribute(name) !== value && !(name === "open" && old.tagName === "DETAILS")) old.setAttribute(name, value);
  children(old, fresh);
}
