"""Template tags and filters of all pages, loaded as builtins.

They turn values into small pieces of HTML (icons, glyphs, meters, sparklines, times) without an
inline style or script, which the content security policy forbids.
"""

from collections.abc import Sequence
from datetime import datetime

from django import template
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from apps.dashboard import units
from apps.dashboard.words import Status
from apps.lib import clock

register = template.Library()

register.filter("count", units.count)
register.filter("rate", units.rate)
register.filter("seconds", units.seconds)
register.filter("duration", units.duration)
register.filter("filesize", units.bytes_)
register.filter("percent", units.percent)
register.filter("usd", units.usd)
register.filter("parameters", units.parameters)
register.filter("tokens", units.tokens)


@register.filter
def code(text: str) -> SafeString:
    """Return `text` with what stands in backticks as code, everything escaped."""
    parts = text.split("`")
    pieces = (
        (format_html("<code>{}</code>" if n % 2 else "{}", part),) for n, part in enumerate(parts)
    )
    return format_html_join("", "{}", pieces)


@register.filter
def words_of(name: str) -> str:
    """Return `kv_cache_dtype` as people read it: `KV cache dtype`."""
    words = name.capitalize().split("_")
    return " ".join(_SHORT.get(word.lower(), word) for word in words)


_SHORT = {"kv": "KV", "lora": "LoRA", "loras": "LoRAs", "gpu": "GPU", "cpu": "CPU", "omp": "OMP"}


_GLYPHS = {  # 12 px, one shape a state, so that colour is never the only signal
    "live": '<circle cx="6" cy="6" r="4" fill="currentColor"/>',
    "starting": '<circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" stroke-width="1.6"/>'
    '<path d="M6 2a4 4 0 0 1 0 8z" fill="currentColor"/>',
    "draining": '<circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" stroke-width="1.6"/>'
    '<path d="M6 2a4 4 0 0 0 0 8z" fill="currentColor"/>',
    "scaling": '<path d="M6 1.6 9.6 5.4H2.4zM6 10.4 2.4 6.6h7.2z" fill="currentColor"/>',
    "degraded": '<path d="M6 1.4 11 10.4H1z" fill="currentColor"/>',
    "failed": '<path d="M2.6 2.6l6.8 6.8M9.4 2.6 2.6 9.4" stroke="currentColor" '
    'stroke-width="2.2" stroke-linecap="round"/>',
    "asleep": '<path d="M9.8 7.4A4.4 4.4 0 1 1 5 1.9a3.5 3.5 0 0 0 4.8 5.5z" fill="currentColor"/>',
    "stopped": '<rect x="2.6" y="2.6" width="6.8" height="6.8" rx="1" fill="none" '
    'stroke="currentColor" stroke-width="1.6"/>',
    "unknown": '<circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" '
    'stroke-width="1.6" stroke-dasharray="2 2"/>',
}

SPARK_POINTS = 30
_MAX_PIPS = 8


@register.simple_tag
def icon(name: str, size: str = "") -> SafeString:
    """Return a decorative icon of the sprite; `size` is `s` for 14 px."""
    return format_html(
        '<svg class="ico {}" aria-hidden="true"><use href="{}#{}"/></svg>',
        size,
        static("vendor/icons.svg"),
        name,
    )


@register.simple_tag
def glyph(status: Status, *, decorative: bool = False) -> SafeString:
    """Return the shape of a status; `decorative` where its word stands beside it."""
    label = (
        mark_safe('aria-hidden="true"')
        if decorative
        else format_html('role="img" aria-label="{}"', status.word)
    )
    shape = mark_safe(_GLYPHS[status.key])
    return format_html(
        '<svg class="g {}" viewBox="0 0 12 12" {}>{}</svg>', status.key, label, shape
    )


@register.simple_tag
def badge(status: Status) -> SafeString:
    """Return a status as a pill: glyph and word."""
    return format_html(
        '<span class="badge {}">{}{}</span>',
        status.key,
        glyph(status, decorative=True),
        status.word,
    )


@register.simple_tag
def pips(ready: int, wanted: int, broken: int = 0) -> SafeString:
    """Return one square a replica: solid ready, half starting, disc broken, hollow none."""
    total = max(ready, wanted)
    kinds = ["" if n < ready else "bad" if n < ready + broken else "start" for n in range(total)]
    cells = format_html_join(
        "", '<i class="pip {}"></i>', ([k] for k in kinds[:_MAX_PIPS] or ["off"])
    )
    return format_html('<span class="pips" aria-hidden="true">{}</span>', cells)


@register.simple_tag
def meter(ratio: float | None, hue: str, name: str = "") -> SafeString:
    """Return a small bar; `name` lets the page's script move it."""
    width = f"{min(max(ratio or 0.0, 0.0), 1.0) * 100:.1f}%"
    return format_html(
        '<svg class="meter {}" data-m="{}" aria-hidden="true"><rect class="t" width="100%" '
        'height="100%"/><rect class="f" width="{}" height="100%"/></svg>',
        hue,
        name,
        width,
    )


@register.simple_tag
def spark(values: Sequence[float | None], hue: str, name: str = "") -> SafeString:
    """Return a sparkline of up to 30 values, drawn from 0, newest at the right edge."""
    line, area = spark_paths(values)
    return format_html(
        '<svg class="spark {}" data-s="{}" viewBox="0 0 59 24" preserveAspectRatio="none" '
        'aria-hidden="true"><path class="a" d="{}"/><path class="l" d="{}"/></svg>',
        hue,
        name,
        area,
        line,
    )


def spark_paths(values: Sequence[float | None]) -> tuple[str, str]:
    """Return the SVG paths (line, area) of a sparkline on a 59 by 24 field."""
    points = [value or 0.0 for value in values][-SPARK_POINTS:]
    if len(points) < 2:
        return "", ""
    top = max(max(points), 1.0) * 1.1
    offset = SPARK_POINTS - len(points)
    steps = [f"{(offset + n) * 2} {23 - value / top * 21:.1f}" for n, value in enumerate(points)]
    line = "M" + "L".join(steps)
    return line, f"{line}V24H{offset * 2}Z"


@register.simple_tag
def ago(at: datetime | None) -> SafeString:
    """Return a `<time>` as "4 min ago", with the absolute time and zone as its title."""
    if at is None:
        return mark_safe("–")  # noqa: RUF001
    past = (clock.now() - at).total_seconds()
    text = "just now" if past < 5 else f"{units.duration(past).split(' ', 2)[0]} {_unit(past)} ago"
    return format_html(
        '<time datetime="{}" title="{}" data-ago>{}</time>',
        at.isoformat(timespec="seconds"),
        at.strftime("%d %b %Y, %H:%M:%S UTC"),
        text,
    )


def _unit(past_seconds: float) -> str:
    return units.duration(past_seconds).split(" ", 2)[1]
