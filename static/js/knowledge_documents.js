/* Documents: files dropped anywhere on the page go into the upload form. */

import * as live from "./live.js";

live.start({});

const drop = document.getElementById("drop");

if (drop) {
  const input = drop.querySelector('input[type="file"]');
  const over = (on) => drop.classList.toggle("over", on);
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    over(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
  addEventListener("drop", (event) => {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    over(false);
    input.files = event.dataTransfer.files;
    drop.requestSubmit();
  });
  input.addEventListener("change", () => input.files.length && drop.requestSubmit());
}
