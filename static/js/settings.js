/* Settings: the theme of this browser. */

import { setTheme } from "./shell.js";

const group = document.querySelector("[data-themes]");
const mark = () => {
  const theme = document.documentElement.dataset.theme ?? "system";
  for (const button of group.children) button.setAttribute("aria-pressed", String(button.value === theme));
};
group.addEventListener("click", (event) => event.target.value && setTheme(event.target.value));
addEventListener("hearth:theme", mark);
mark();
