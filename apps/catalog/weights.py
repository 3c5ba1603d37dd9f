"""Which weights an agent must have for a variant, as the message that crosses to it."""

import hashlib
import re

import msgspec

from agents.wire import WeightsRef
from apps.catalog.entry import Source, Variant


def weights_ref(variant: Variant) -> WeightsRef:
    """Return the weights of `variant` from its preferred source."""
    return weights_refs(variant)[0]


def weights_refs(variant: Variant) -> tuple[WeightsRef, ...]:
    """Return the weights of `variant` from each of its sources, the preferred one first."""
    return tuple(_ref(source, variant.weight_bytes) for source in variant.sources)


def ref_of(source: str) -> WeightsRef:
    """Return the weights at `source`, whose size nobody knows: an adapter, a draft model."""
    return _ref(Source(source=source), 0)


def at_revision(ref: WeightsRef, revision: str) -> WeightsRef:
    """Return `ref` at another revision of the hub, and only hub sources of it.

    A source that is no hub's has one content and stays out; `ref` itself if none is the hub's.
    """
    moved = [
        _ref(Source(source=f"{one.source.rpartition('@')[0]}@{revision}"), one.bytes)
        for one in (ref, *ref.alternatives)
        if one.source.startswith("hf:")
    ]
    if not moved:
        return ref
    return msgspec.structs.replace(moved[0], alternatives=tuple(moved[1:]))


def _ref(source: Source, weight_bytes: int) -> WeightsRef:
    return WeightsRef(
        key=_key(source),
        source=source.source,
        bytes=weight_bytes,
        sha256=source.sha256 or "",
        convert=source.convert or "",
    )


def _key(source: Source) -> str:
    """Return a folder name that people can read and that two sources never share."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", source.source.partition(":")[2]).strip("-.")[:48]
    identity = f"{source.source}\n{source.convert or ''}\n{source.sha256 or ''}"
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
