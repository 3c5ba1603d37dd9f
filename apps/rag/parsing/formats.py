"""Read one file into pages of text. Runs in the confined child only; may be killed at any time."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import docx
import pypdfium2
import pypdfium2.raw as pdfium
from docx.document import Document as DocxDocument
from docx.table import Table
from docx.text.paragraph import Paragraph
from selectolax.lexbor import LexborHTMLParser, LexborNode

from apps.rag.parsing.sniff import Unsupported, check_zip

MOST_PAGES = 2_000
MOST_CHARACTERS = 20_000_000
_LOOKED_AT_FOR_HIDDEN = 100
"""Pages whose text objects are looked at one by one: it takes a millisecond a page."""
_TINY_POINTS = 1.0
_INVISIBLE_MODE = 3
_WHITE = 250
_HIDDEN_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0|opacity\s*:\s*0(?![.\d]*[1-9])",
    re.IGNORECASE,
)
_NOT_TEXT = "script, style, template, noscript, svg, iframe, object, head"
_BLOCKS = frozenset(
    (
        *("p", "div", "section", "article", "header", "footer", "main", "aside", "li", "ul", "ol"),
        *("table", "tr", "blockquote", "pre", "br", "dl", "dt", "dd", "figure", "figcaption"),
        *("form", "hr"),
    )
)

type Flags = list[dict[str, str]]
type Read = tuple[list[str], Flags]


def read(data: bytes, kind: str) -> Read:
    """Return the pages of `data` and what a reader should know. Raises Unsupported."""
    readers: dict[str, Callable[[bytes], Read]] = {
        "pdf": _pdf,
        "docx": _docx,
        "html": _html,
        "csv": _csv,
    }
    pages, flags = readers.get(kind, _text)(data)
    characters = sum(map(len, pages))
    if characters > MOST_CHARACTERS:
        raise Unsupported(
            "too_long", f"it has {characters:,} characters; at most {MOST_CHARACTERS:,}: split it."
        )
    if not any(page.strip() for page in pages):
        raise Unsupported("no_text", "there is no text in it; a scan needs OCR first.")
    return pages, flags


def open_pdf(data: bytes) -> pypdfium2.PdfDocument:
    """Return the opened PDF. Raises Unsupported."""
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error):
            raise Unsupported(
                "encrypted", "it is encrypted; upload it without a password."
            ) from error
        raise Unsupported("unreadable", f"the PDF is damaged: {error}.") from error


def _pdf(data: bytes) -> Read:
    document = open_pdf(data)
    if len(document) > MOST_PAGES:
        raise Unsupported(
            "too_many_pages", f"it has {len(document):,} pages; at most {MOST_PAGES:,}: split it."
        )
    pages, hidden = [], 0
    for number in range(len(document)):
        try:
            page = document[number]
            pages.append(page.get_textpage().get_text_range())
            if number < _LOOKED_AT_FOR_HIDDEN:
                hidden += _hidden_objects(page)
            page.close()
        except pypdfium2.PdfiumError as error:
            raise Unsupported("unreadable", f"page {number + 1} is damaged: {error}.") from error
    flags = [_hidden(f"{hidden} invisible, white or tiny pieces of text")] if hidden else []
    return pages, flags


def _hidden_objects(page: pypdfium2.PdfPage) -> int:
    return sum(
        _is_hidden(found) for found in page.get_objects([pdfium.FPDF_PAGEOBJ_TEXT], max_depth=2)
    )


def _is_hidden(found: Any) -> bool:  # noqa: ANN401 - pypdfium2 has no types
    if pdfium.FPDFTextObj_GetTextRenderMode(found) == _INVISIBLE_MODE:
        return True
    size = pdfium.c_float()
    matrix = found.get_matrix()
    if pdfium.FPDFTextObj_GetFontSize(found, size):
        height = abs(size.value) * max(abs(matrix.b), abs(matrix.d))
        if height < _TINY_POINTS:
            return True
    red, green, blue, alpha = (pdfium.c_uint() for _ in range(4))
    if pdfium.FPDFPageObj_GetFillColor(found, red, green, blue, alpha):
        return bool(min(red.value, green.value, blue.value) >= _WHITE or alpha.value == 0)
    return False


def _docx(data: bytes) -> Read:
    check_zip(data)
    try:
        document = docx.Document(io.BytesIO(data))
    except (KeyError, ValueError, OSError) as error:
        raise Unsupported("unreadable", f"the DOCX is damaged: {error}.") from error
    hidden = 0
    parts = []
    for block in document.iter_inner_content():
        if isinstance(block, Paragraph):
            parts.append(_paragraph(block))
            hidden += sum(_run_is_hidden(run) for run in block.runs)
        elif isinstance(block, Table):
            parts.append(_table(block))
    flags = [_hidden(f"{hidden} hidden or white runs of text")] if hidden else []
    return [_titled(document) + "\n\n".join(part for part in parts if part)], flags


def _titled(document: DocxDocument) -> str:
    title = (document.core_properties.title or "").strip()
    return f"# {title}\n\n" if title else ""


def _paragraph(block: Paragraph) -> str:
    style = (block.style.name or "") if block.style is not None else ""
    level = re.fullmatch(r"Heading ([1-6])", style)
    text = block.text.strip()
    return f"{'#' * int(level[1])} {text}" if level and text else text


def _run_is_hidden(run: Any) -> bool:  # noqa: ANN401
    colour = run.font.color.rgb if run.font.color is not None else None
    is_white = colour is not None and min(colour) >= _WHITE
    return bool(run.text.strip()) and (bool(run.font.hidden) or is_white)


def _table(table: Table) -> str:
    return "\n".join(
        " | ".join(cell.text.strip().replace("\n", " ") for cell in row.cells) for row in table.rows
    )


def _html(data: bytes) -> Read:
    tree = LexborHTMLParser(decode(data))
    if tree.body is None:
        return [""], []
    title = tree.css_first("title")
    head = f"# {title.text(strip=True)}\n\n" if title and title.text(strip=True) else ""
    for node in tree.css(_NOT_TEXT):
        node.decompose()
    hidden = [node for node in tree.body.css("[hidden], [style]") if _is_unseen(node)]
    words = sum(bool(node.text(strip=True)) for node in hidden)
    for node in hidden:
        node.decompose()
    flags = [_hidden(f"{words} hidden parts were left out")] if words else []
    return [head + "".join(_walk(tree.body))], flags


def _is_unseen(node: LexborNode) -> bool:
    attributes = node.attributes
    return "hidden" in attributes or bool(_HIDDEN_STYLE.search(attributes.get("style") or ""))


def _walk(root: LexborNode) -> Iterator[str]:
    """Yield the text of `root` in order, a line break around blocks, `#` before headings."""
    for node in root.traverse(include_text=True):
        tag = node.tag or ""
        if tag == "-text":
            yield re.sub(r"\s+", " ", node.text_content or "")
        elif re.fullmatch(r"h[1-6]", tag):
            yield f"\n\n{'#' * int(tag[1])} "
        elif tag in ("p", "table", "ul", "ol", "blockquote", "pre", "section", "article"):
            yield "\n\n"
        elif tag in ("td", "th"):
            yield " | "
        elif tag in _BLOCKS:
            yield "\n"


def _csv(data: bytes) -> Read:
    text = decode(data)
    sample = text[:8192]
    try:
        dialect: Any = csv.Sniffer().sniff(sample, delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    csv.field_size_limit(1_000_000)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), dialect) if any(row)]
    except csv.Error as error:
        raise Unsupported("unreadable", f"the CSV is damaged: {error}.") from error
    if not rows:
        return [""], []
    header = [name.strip() for name in rows[0]]
    if len(rows) == 1:
        return [" | ".join(header)], []
    return ["\n\n".join(_record(header, row) for row in rows[1:])], []


def _record(header: list[str], row: list[str]) -> str:
    names = header + [f"column {at + 1}" for at in range(len(header), len(row))]
    return "\n".join(
        f"{name}: {value.strip()}" for name, value in zip(names, row, strict=False) if value.strip()
    )


def _text(data: bytes) -> Read:
    return [decode(data)], []


def decode(data: bytes) -> str:
    """Return `data` as text: by its byte-order mark, as UTF-8, else as Windows-1252."""
    for mark, name in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name, "replace")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _hidden(detail: str) -> dict[str, str]:
    return {"kind": "hidden-text", "detail": detail}
