/* The one menu of all rows: its entries point to the row whose button opened it. */

const menu = document.getElementById("rowmenu");

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-menu]");
  if (!button || !menu) return;
  point(button.closest("tr").dataset);
  const box = button.getBoundingClientRect();
  menu.showPopover({ source: button });
  menu.style.left = `${Math.max(8, box.right - menu.offsetWidth)}px`;
  menu.style.top = `${Math.min(innerHeight - menu.offsetHeight - 8, box.bottom + 4)}px`;
  entries()[0].focus();
});

menu?.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const all = entries();
  all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
});
menu?.addEventListener("click", () => menu.hidePopover());

const entries = () => [...menu.querySelectorAll("a,button")].filter((entry) => !entry.hidden);

function point({ name, task, stoppable }) {
  const base = `/deployments/${name}/`;
  const go = (key) => menu.querySelector(`[data-go="${key}"]`);
  go("open").href = base;
  go("chat").href = `/playground/?model=${name}`;
  go("chat").hidden = task !== "chat";
  if (!go("start")) return;
  go("start").setAttribute("formaction", `${base}start/`);
  go("start").hidden = !!stoppable;
  go("stop").setAttribute("formaction", `${base}stop/`);
  go("stop").hidden = !stoppable;
  go("delete").href = `${base}delete/`;
  Object.assign(go("delete").dataset, {
    ask: "Delete",
    name,
    what: "This drains and stops its replicas and removes its settings. Requests for it get 404. Usage and events are kept. It cannot be undone.",
  });
}
