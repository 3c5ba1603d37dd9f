"""Which weights an agent must have for a variant, as the message that crosses to it."""

import hashlib
import re

from agents.wire import WeightsRef
from apps.catalog.entry import Source, Variant


def weights_ref(variant: Variant) -> WeightsRef:
    """Return the weights of `variant` from its preferred source."""
    return weights_refs(variant)[0]


def weights_refs(variant: Variant) -> tuple[WeightsRef, ...]:
    """Return the weights of `variant` from each of its sources, the preferred one first."""
    return tuple(_ref(source, variant.weight_bytes) for source in variant.sources)


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
