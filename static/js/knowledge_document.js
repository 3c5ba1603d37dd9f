/* One document: the boxes of the passage on the page of a PDF. */

const paper = document.querySelector("[data-boxes]");

if (paper) mark();

async function mark() {
  const reply = await fetch(paper.dataset.boxes);
  if (!reply.ok) return;
  const { boxes } = await reply.json();
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" })) svg.setAttribute(key, value);
  for (const [x, y, width, height] of boxes) {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of Object.entries({ x, y, width, height })) rect.setAttribute(key, value);
    svg.append(rect);
  }
  paper.append(svg);
}
