/* A small Markdown: paragraphs, headings, lists, quotes, code, rules, emphasis, links as text.
   Everything becomes a text node or one of a few elements; no HTML of the model is ever parsed. */

const make = (tag, ...nodes) => {
  const element = document.createElement(tag);
  element.append(...nodes);
  return element;
};

/* Returns the nodes of `text`. */
export function render(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"));
}

function blocks(lines) {
  const out = [];
  let n = 0;
  while (n < lines.length) {
    const [node, used] = block(lines, n);
    if (node) out.push(node);
    n += used;
  }
  return out;
}

function block(lines, n) {
  const line = lines[n];
  if (!line.trim()) return [null, 1];
  if (/^\s*```/.test(line)) return code(lines, n);
  const heading = line.match(/^(#{1,6})\s+(.*)/);
  if (heading) return [make("h3", ...inline(heading[2])), 1];
  if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) return [make("hr"), 1];
  if (/^\s*>/.test(line)) return run(lines, n, /^\s*>/, (part) => make("blockquote", ...blocks(part.map((l) => l.replace(/^\s*>\s?/, "")))));
  if (/^\s*[-*+]\s+/.test(line)) return list(lines, n, "ul", /^\s*[-*+]\s+/);
  if (/^\s*\d+[.)]\s+/.test(line)) return list(lines, n, "ol", /^\s*\d+[.)]\s+/);
  return paragraph(lines, n);
}

function code(lines, n) {
  let end = n + 1;
  while (end < lines.length && !/^\s*```/.test(lines[end])) end++;
  const pre = make("pre", make("code", lines.slice(n + 1, end).join("\n")));
  pre.tabIndex = 0;
  return [pre, end - n + 1];
}

function run(lines, n, mark, build) {
  let end = n;
  while (end < lines.length && mark.test(lines[end])) end++;
  return [build(lines.slice(n, end)), end - n];
}

function list(lines, n, tag, mark) {
  const items = [];
  let end = n;
  for (; end < lines.length && lines[end].trim(); end++) {
    if (mark.test(lines[end])) items.push(lines[end].replace(mark, ""));
    else items[items.length - 1] += ` ${lines[end].trim()}`;
  }
  const element = make(tag, ...items.map((item) => make("li", ...inline(item))));
  if (tag === "ol") element.start = parseInt(lines[n], 10) || 1;
  return [element, end - n];
}

function paragraph(lines, n) {
  let end = n + 1;
  while (end < lines.length && lines[end].trim() && !/^\s*(```|#{1,6}\s|>|[-*+]\s|\d+[.)]\s)/.test(lines[end])) end++;
  const nodes = lines.slice(n, end).flatMap((line, k) => (k ? [make("br"), ...inline(line)] : inline(line)));
  return [make("p", ...nodes), end - n];
}

const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|__(.+?)__|\*(\S(?:.*?\S)?)\*|~~(.+?)~~|\[([^\]]+)\]\(([^)\s]+)\)/;

function inline(text) {
  const found = text.match(INLINE);
  if (!found) return [text];
  const [whole, , mono, strong, strong2, em, gone, label, href] = found;
  const node = mono ? make("code", mono)
    : strong || strong2 ? make("strong", ...inline(strong ?? strong2))
    : em ? make("em", ...inline(em))
    : gone ? make("s", ...inline(gone))
    : link(label, href);
  return [text.slice(0, found.index), node, ...inline(text.slice(found.index + whole.length))].filter((part) => part !== "");
}

/* A link opens only what is plainly http or https; anything else stays text. */
function link(label, href) {
  if (!/^https?:\/\//i.test(href)) return `${label} (${href})`;
  const anchor = make("a", ...inline(label));
  anchor.href = href;
  anchor.rel = "noreferrer noopener";
  anchor.target = "_blank";
  return anchor;
}
