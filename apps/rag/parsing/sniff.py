"""What a file is, by its content: a name proves nothing. Pure."""

import io
import re
import zipfile

MOST_MEMBERS = 2_000
MOST_INFLATED_BYTES = 200 * 1024**2
MOST_RATIO = 100
"""Inflated over packed; a document's text packs 3 to 20 to one."""
_RATIO_COUNTS_FROM_BYTES = 1024**2

_HTML = re.compile(
    rb"^\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
_MARKDOWN = re.compile(r"^(?:#{1,6} \S|```|\s*[-*] \S.*\n\s*[-*] \S|\[.+\]\(.+\))", re.MULTILINE)
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_LOOKED_AT = 64 * 1024
KINDS = ("pdf", "docx", "html", "markdown", "text", "csv")
_EXTENSIONS = {
    "pdf": "pdf",
    "docx": "docx",
    "html": "html",
    "htm": "html",
    "md": "markdown",
    "markdown": "markdown",
    "csv": "csv",
    "tsv": "csv",
    "txt": "text",
    "text": "text",
}


class Unsupported(ValueError):
    """The file is none that can be read; `code` is a stable word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def kind_of(data: bytes, name: str) -> str:
    """Return the kind of `data`. Raises Unsupported.

    The name decides only between kinds of plain text, which content cannot tell apart.
    """
    if not data.strip():
        raise Unsupported("empty", "the file is empty.")
    if b"%PDF-" in data[:1024]:
        return "pdf"
    if data.startswith(b"PK\x03\x04"):
        return _of_zip(data)
    head = data[:_LOOKED_AT]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _of_text(head.decode("utf-16", "replace"), name)
    if _BINARY.search(head):
        raise Unsupported(
            "unsupported_type", "it is no PDF, DOCX, HTML, Markdown, text or CSV; convert it first."
        )
    if _HTML.match(head):
        return "html"
    return _of_text(head.decode("utf-8", "replace"), name)


def mislabelled(kind: str, name: str) -> str:
    """Return the kind that `name` claims when it is another one than `kind`; empty if it fits."""
    claimed = _EXTENSIONS.get(_extension(name), "")
    plain = ("markdown", "text", "csv")
    if not claimed or claimed == kind or (claimed in plain and kind in plain):
        return ""
    return claimed


def check_zip(data: bytes) -> list[str]:
    """Return the members' names of a zip that is safe to inflate. Raises Unsupported."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError) as error:
        raise Unsupported("unreadable", f"the file is damaged: {error}.") from error
    inflated = sum(member.file_size for member in members)
    steep = any(
        member.file_size > max(_RATIO_COUNTS_FROM_BYTES, MOST_RATIO * member.compress_size)
        for member in members
    )
    if len(members) > MOST_MEMBERS or inflated > MOST_INFLATED_BYTES or steep:
        raise Unsupported(
            "bomb", f"it would inflate to {inflated:,} bytes in {len(members):,} parts; not read."
        )
    return [member.filename for member in members]


def _of_zip(data: bytes) -> str:
    if "word/document.xml" in check_zip(data):
        return "docx"
    raise Unsupported("unsupported_type", "it is a zip archive that is no DOCX; upload its files.")


def _of_text(text: str, name: str) -> str:
    claimed = _EXTENSIONS.get(_extension(name), "")
    if claimed in ("markdown", "text", "csv"):
        return claimed
    return "markdown" if _MARKDOWN.search(text) else "text"


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""
