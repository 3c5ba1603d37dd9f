"""What an hour of a host costs when nobody has said: a table by GPU kind, pure.

The figures are what on-demand clouds asked per GPU in 2026, rounded; they only make the first
cost figure come out in the right order of magnitude, and every use of one is marked as a default.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

CPU_KIND = "cpu"
"""Kind of a host without GPUs."""

DEFAULTS_USD_PER_HOUR: dict[str, Decimal] = {
    CPU_KIND: Decimal("0.05"),
    "b300": Decimal("5.50"),
    "b200": Decimal("4.50"),
    "gb200": Decimal("5.00"),
    "h200": Decimal("3.20"),
    "h100": Decimal("2.40"),
    "gh200": Decimal("2.20"),
    "mi300x": Decimal("2.20"),
    "a100": Decimal("1.40"),
    "rtx pro 6000": Decimal("1.60"),
    "l40s": Decimal("0.90"),
    "l40": Decimal("0.80"),
    "rtx 6000 ada": Decimal("0.80"),
    "rtx 5090": Decimal("0.65"),
    "rtx a6000": Decimal("0.55"),
    "a40": Decimal("0.50"),
    "rtx 4090": Decimal("0.45"),
    "l4": Decimal("0.60"),
    "a10g": Decimal("0.60"),
    "a10": Decimal("0.55"),
    "v100": Decimal("0.40"),
    "rtx 3090": Decimal("0.25"),
    "t4": Decimal("0.30"),
}
"""GPU kind, as `kind_of` gives it -> price of one for an hour."""

UNKNOWN_GPU_USD_PER_HOUR = Decimal("0.50")

KIND = re.compile(r"[a-z0-9][a-z0-9 .()+_-]{0,79}")
"""What a price can be set for."""

_BRANDS = re.compile(r"\b(nvidia|amd|geforce|tesla|quadro|instinct|graphics|generation)\b")


@cache
def kind_of(gpu_name: str) -> str:
    """Return the kind of a GPU by its driver's name: `NVIDIA H100 80GB HBM3` -> `h100`.

    A card that the table does not know keeps its whole name, in lower case and without the brand.
    """
    words = " ".join(_BRANDS.sub(" ", gpu_name.lower()).replace("-", " ").split())
    padded = f" {words} "
    known = [kind for kind in DEFAULTS_USD_PER_HOUR if f" {kind} " in padded]
    return max(known, key=len) if known else words


@dataclass(frozen=True)
class PriceBook:
    """The default prices that hold: the table above, and over it what an admin has set."""

    overrides: Mapping[str, Decimal]

    def kinds(self) -> list[str]:
        """Return every kind that has a price, `cpu` first."""
        return sorted({*DEFAULTS_USD_PER_HOUR, *self.overrides}, key=lambda k: (k != CPU_KIND, k))

    def of_kind(self, kind: str) -> Decimal:
        """Return the price of one GPU of `kind` (or of a CPU host) for an hour, in USD."""
        known = self.overrides.get(kind, DEFAULTS_USD_PER_HOUR.get(kind))
        return UNKNOWN_GPU_USD_PER_HOUR if known is None else known

    def of_host(self, own_price: Decimal | None, gpu_names: Sequence[str]) -> tuple[Decimal, bool]:
        """Return (USD per hour, whether it is a default) of a host with these GPUs.

        `own_price` is what somebody set for this very host; it counts before all else.
        """
        if own_price is not None:
            return own_price, False
        if not gpu_names:
            return self.of_kind(CPU_KIND), True
        return sum((self.of_kind(kind_of(name)) for name in gpu_names), Decimal(0)), True


def share_of_host(
    *, gpus: int, host_gpus: int, memory_bytes: int, host_memory_bytes: int
) -> Decimal:
    """Return which part of its host a replica takes, 0 to 1.

    By GPUs on a host that has some, else by memory. A CPU replica on a GPU host costs nothing of
    it: the GPUs are what the price is for.
    """
    part, whole = (gpus, host_gpus) if host_gpus else (memory_bytes, host_memory_bytes)
    return min(Decimal(1), Decimal(part) / Decimal(whole)) if whole else Decimal(0)
