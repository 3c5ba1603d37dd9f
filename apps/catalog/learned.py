"""What engines said at their start, against the estimate; and how that corrects the next one.

Each part of the memory is corrected by itself, from a start that is like enough for that part: the
same settings first, else the same variant on the same kind of device with the same split, and for
what does not depend on the model any start on that kind of device. There is no factor over the
whole: weights that were wrong do not change what a token of KV cache costs. Pure; called by
`apps.catalog.answer`, and by the deployments app with what it has stored.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from agents.wire import EngineSettings
from apps.catalog import need as needs
from apps.catalog import shapes
from apps.catalog.entry import Device, Variant
from apps.catalog.need import Need

WRONG_RATIO = 0.10
"""An estimate that is further off is said to be wrong."""

RESOLUTION_BYTES = 1024**3 // 200
"""Engines print GiB with two decimals: a smaller difference is none."""

PARTS = ("weights_bytes", "kv_bytes", "activation_bytes", "graph_bytes", "runtime_bytes")


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start that was measured. `estimated` is what the arithmetic alone gives for it."""

    variant: str
    device_kind: str
    """`cpu`, or a kind of GPU as `h100`."""
    digest: str
    """Of the settings; equal digests are equal settings."""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    deals_experts: bool = False
    kv_cache_dtype: str = "auto"
    estimated: Mapping[str, int] = field(default_factory=dict)
    measured: Mapping[str, int] = field(default_factory=dict)
    """Bytes by part as in PARTS, `kv_tokens`, and `total_bytes` where it is known."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """By part: the factor for the estimate, and in words which start it comes from."""

    ratios: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def ratio(self, part: str) -> float:
        return self.ratios.get(part, 1.0)

    def correct(self, need: Need) -> Need:
        """Return `need` with every part corrected that something is known of."""
        return replace(
            need,
            **{
                part: int(getattr(need, part) * ratio)
                for part, ratio in self.ratios.items()
                if part != "kv_bytes"
            },
        )


NOTHING_LEARNED = Lesson()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One part, as it was predicted and as the engine said."""

    part: str
    predicted: int
    measured: int

    @property
    def error_ratio(self) -> float:
        """How far the prediction was off, of the measured; positive when it was too high."""
        return (self.predicted - self.measured) / self.measured if self.measured else 0.0

    @property
    def is_wrong(self) -> bool:
        finest = 0 if self.part == "kv_tokens" else RESOLUTION_BYTES
        off = abs(self.predicted - self.measured)
        return abs(self.error_ratio) > WRONG_RATIO and off > finest


def digest(settings: EngineSettings, engine_version: str) -> str:
    """Return a short name for the settings of an engine of that version."""
    text = msgspec.json.encode(settings, order="deterministic") + engine_version.encode()
    return hashlib.sha256(text).hexdigest()[:16]


def compare(predicted: Mapping[str, int], measured: Mapping[str, int]) -> tuple[Comparison, ...]:
    """Return every part that was both predicted and measured."""
    return tuple(
        Comparison(part=part, predicted=predicted[part], measured=measured[part])
        for part in (*PARTS, "kv_tokens", "total_bytes")
        if predicted.get(part) and measured.get(part)
    )


def estimated_parts(
    variant: Variant, settings: EngineSettings, device: Device | str, kv_bytes: int
) -> dict[str, int]:
    """Return what the arithmetic alone gives for an engine with a KV cache of `kv_bytes`."""
    need = needs.estimate(variant, settings, device)
    parts = {part: int(getattr(need, part)) for part in PARTS}
    parts["kv_bytes"] = kv_bytes or need.kv_bytes
    parts["kv_tokens"] = needs.kv_tokens(variant, settings, device, parts["kv_bytes"])
    parts["total_bytes"] = need.fixed_bytes + parts["kv_bytes"]
    return parts


def learn(
    starts: Sequence[Start], variant: Variant, settings: EngineSettings, device_kind: str
) -> Lesson:
    """Return what `starts`, the newest first, teach about such an engine."""
    here = [start for start in starts if start.device_kind == device_kind]
    same_model = [start for start in here if _is_same_split(start, variant, settings)]
    wanted = settings.kv_cache_dtype or "auto"
    same_cache = [start for start in same_model if start.kv_cache_dtype == wanted]
    ratios: dict[str, float] = {}
    sources: dict[str, str] = {}
    for part in PARTS:
        model = "this variant on such a device", same_model
        tiers = {
            "kv_bytes": [("this variant with this KV type", same_cache)],
            "runtime_bytes": [model, ("another model on such a device", here)],
        }.get(part, [model])
        for words, alike in tiers:
            if ratio := next((r for start in alike if (r := _ratio(start, part))), None):
                ratios[part], sources[part] = ratio, words
                break
    return Lesson(ratios=ratios, sources=sources)


def _is_same_split(start: Start, variant: Variant, settings: EngineSettings) -> bool:
    split = shapes.Split(
        tensor=start.tensor_parallel,
        pipeline=start.pipeline_parallel,
        data=start.data_parallel,
        deals_experts=start.deals_experts,
    )
    return start.variant == variant.name and split == needs.split_of(settings)


def _ratio(start: Start, part: str) -> float | None:
    """Return measured over estimated, None if it was not measured or is within the rounding."""
    if part == "kv_bytes":
        tokens, expected = start.measured.get("kv_tokens"), start.estimated.get("kv_tokens")
        return expected / tokens if tokens and expected else None
    measured, estimated = start.measured.get(part), start.estimated.get(part)
    if not measured or not estimated:
        return None
    return 1.0 if abs(measured - estimated) <= RESOLUTION_BYTES else measured / estimated
