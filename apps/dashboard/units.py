"""Numbers as people read them: `12.3k`, `1.93 s`, `$0.008`, `66 GB`. Pure.

The browser formats the same numbers in `static/js/units.js`; both follow one table of rules, which
`docs/dashboard.md` holds. A missing number is an en dash, never 0.
"""

NONE = "–"  # noqa: RUF001  # the sign for "not applicable", an en dash on purpose


def count(value: float | None) -> str:
    """Return a whole number: 1,450, then 12.3k from 10,000, then 1.20M."""
    if value is None:
        return NONE
    if abs(value) >= 1e9:
        return f"{value / 1e9:.2f}B"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.1f}k"
    return f"{value:,.0f}"


def rate(value: float | None) -> str:
    """Return a rate: one decimal below 10, else as `count`."""
    if value is not None and 0 < value < 9.95:
        return f"{value:.1f}"
    return count(value)


def seconds(value: float | None) -> str:
    """Return a latency: `210 ms`, `1.93 s`, `2 min 5 s`."""
    if value is None:
        return NONE
    if value < 0.01:
        return f"{value * 1000:.1f} ms"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"
    return duration(value)


def duration(value: float | None) -> str:
    """Return a span of time in its two largest units: `8 s`, `2 min 5 s`, `6 d 4 h`."""
    if value is None:
        return NONE
    whole = max(0, round(value))
    parts: list[tuple[int, str]] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        amount, whole = divmod(whole, size)
        if amount or parts:
            parts.append((amount, unit))
        if len(parts) == 2:
            break
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount) or "0 s"


def bytes_(value: float | None) -> str:
    """Return a size in decimal units: `270 MB`, `66 GB`, `1.01 TB`."""
    if value is None:
        return NONE
    for size, unit, digits in ((1e12, "TB", 2), (1e9, "GB", 1), (1e6, "MB", 0), (1e3, "kB", 0)):
        if value >= size * 0.9995:
            text = f"{value / size:,.{digits}f}"
            return f"{text.removesuffix('.0')} {unit}"
    return f"{value:.0f} B"


def percent(ratio: float | None) -> str:
    """Return a ratio of 0 to 1 as a whole percentage."""
    return NONE if ratio is None else f"{ratio * 100:.0f}%"


def usd(value: float | None) -> str:
    """Return money: `$0.50`, `$0.008` under a cent, `$128.40`; never an exponent."""
    if value is None:
        return NONE
    if value == 0:
        return "$0.00"
    if abs(value) < 0.01:
        return f"${max(value, 0.0001):.4f}".rstrip("0")
    if abs(value) >= 10_000:
        return f"${count(value)}"
    return f"${value:,.2f}"


def parameters(value: float) -> str:
    """Return a model's size: `135M`, `8.2B`, `671B`."""
    if value >= 1e12:
        return f"{value / 1e12:.1f}T".replace(".0T", "T")
    if value >= 1e11:
        return f"{value / 1e9:.0f}B"
    if value >= 1e9:
        return f"{value / 1e9:.1f}B".replace(".0B", "B")
    return f"{value / 1e6:.0f}M"


def tokens(value: float | None) -> str:
    """Return a context length: `512`, `8k`, `128k`, `1M`; powers of two count as 1024."""
    if value is None:
        return NONE
    if value >= 1_000_000:
        return f"{value / (1 << 20 if value % 1024 == 0 else 1_000_000):.3g}M"
    if value >= 1024:
        return f"{value / (1024 if value % 1024 == 0 else 1000):.0f}k"
    return f"{value:.0f}"
