"""Show the place of a passage on a PDF page: its boxes, and the page as a picture.

Runs in the confined child only.
"""

import struct
import zlib
from typing import Any

from apps.rag.parsing.formats import open_pdf

WIDTH_PIXELS = 1200
MOST_BOXES = 200

type Box = tuple[float, float, float, float]


def boxes(data: bytes, page_number: int, passage: str) -> list[Box]:
    """Return the lines of `passage` on the page as (left, top, width, height), each 0-1.

    Spaces, hyphens and case are not looked at: cleaning changed them. Empty when it is not found.
    """
    document = open_pdf(data)
    if not 1 <= page_number <= len(document):
        return []
    page = document[page_number - 1]
    text_page = page.get_textpage()
    raw = text_page.get_text_range()
    kept = [(at, char.lower()) for at, char in enumerate(raw) if char.isalnum()]
    wanted = "".join(char.lower() for char in passage if char.isalnum())
    whole = "".join(char for _, char in kept)
    found = _place(whole, wanted)
    if found is None:
        return []
    start, end = kept[found[0]][0], kept[found[1] - 1][0] + 1
    width, height = page.get_size()
    rects = text_page.count_rects(start, end - start)
    return [_box(text_page.get_rect(at), width, height) for at in range(min(rects, MOST_BOXES))]


def picture(data: bytes, page_number: int) -> bytes:
    """Return the page as a PNG. Raises IndexError for a page that is not there."""
    page = open_pdf(data)[page_number - 1]
    scale = min(3.0, WIDTH_PIXELS / max(1.0, page.get_width()))
    bitmap = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False)
    return _png(bitmap)


def _place(whole: str, wanted: str) -> tuple[int, int] | None:
    """Return where `wanted` lies in `whole`: all of it, or as much as this page holds of it."""
    if not wanted:
        return None
    at = whole.find(wanted)
    if at >= 0:
        return at, at + len(wanted)
    at = whole.find(wanted[:60])
    if at >= 0:
        return at, len(whole)
    return None


def _box(rect: tuple[float, float, float, float], width: float, height: float) -> Box:
    left, bottom, right, top = rect
    return (
        round(left / width, 5),
        round(1 - top / height, 5),
        round((right - left) / width, 5),
        round((top - bottom) / height, 5),
    )


def _png(bitmap: Any) -> bytes:  # noqa: ANN401 - pypdfium2 has no types
    width, height, stride = bitmap.width, bitmap.height, bitmap.stride
    channels, raw = bitmap.n_channels, bytes(bitmap.buffer)
    rows = b"".join(
        b"\0" + _rgb(raw[at * stride : at * stride + width * channels], channels)
        for at in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0}.get(channels, 2), 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _part(name, body)
        for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    )


def _rgb(row: bytes, channels: int) -> bytes:
    if channels in (1, 3):
        return row
    kept = bytearray(len(row) // 4 * 3)
    for channel in range(3):
        kept[channel::3] = row[channel::4]
    return bytes(kept)


def _part(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
