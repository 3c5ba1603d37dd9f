"""Keep what engines said of their memory at their start, and hand it to the next estimate.

A start is compared part by part with what its revision was ordered with; a part that was wrong by
more than a tenth is an event. Called by `observed` with each report of a replica that serves.
"""

from datetime import datetime
from typing import Any

import msgspec

from agents.wire import EngineKind, EngineMemory, EngineSpec, ObservedPhase, ReplicaReport
from apps.catalog import catalog
from apps.catalog.entry import Device, UnknownVariant
from apps.catalog.learned import (
    Comparison,
    Start,
    compare,
    digest,
    estimated_parts,
)
from apps.catalog.models import Measurement
from apps.deployments.models import Replica, Revision
from apps.fleet.prices import kind_of

STARTS_READ = 50
"""The newest measurements of a model are enough to correct an estimate."""


def measured_parts(replica: Replica, report: ReplicaReport) -> dict[str, int]:
    """Return the parts that `report` tells of a serving engine; empty while there are none.

    The memory of the whole replica is taken once, when it has just come up: later it holds caches
    of all kinds.
    """
    told = report.engine_memory
    if told is None or report.phase is not ObservedPhase.READY:
        return {}
    parts = _parts(told)
    if report.kv_cache_tokens and told.kv_cache_bytes:
        parts["kv_tokens"] = report.kv_cache_tokens
    total = replica.engine_memory.get("total_bytes") or report.memory_bytes
    if total and not replica.gpu_uuids:
        parts["total_bytes"] = total
    return parts


def _parts(told: EngineMemory) -> dict[str, int]:
    weights = told.weights_bytes or told.checkpoint_bytes
    runtime = None
    if told.consumed_bytes and told.weights_bytes:
        runtime = max(0, told.consumed_bytes - told.weights_bytes)
    parts = {
        "weights_bytes": weights,
        "kv_bytes": told.kv_cache_bytes,
        "activation_bytes": told.activation_bytes,
        "graph_bytes": told.graph_bytes,
        "runtime_bytes": runtime,
    }
    return {part: size for part, size in parts.items() if size}


def learn(replica: Replica, now: datetime) -> tuple[Comparison, ...]:
    """Keep the start of `replica`; return what was wrong about it that was not known before."""
    revision = Revision.objects.get(pk=replica.revision_id)
    measured: dict[str, int] = replica.engine_memory
    if revision.engine != EngineKind.VLLM or not measured:
        return ()
    spec = msgspec.convert(revision.spec, EngineSpec)
    row, known = _row(replica, revision, spec)
    already = {c.part for c in compare(row.predicted, row.measured) if c.is_wrong} if known else ()
    row.measured_at, row.measured = now, measured
    row.predicted = predicted_parts(revision)
    row.estimated = _estimated(replica, revision, spec)
    if known and row.replica != replica.pk:
        row.starts += 1
    row.replica = replica.pk
    row.save()
    wrong = compare(row.predicted, measured)
    return tuple(c for c in wrong if c.is_wrong and c.part not in already)


def _row(replica: Replica, revision: Revision, spec: EngineSpec) -> tuple[Measurement, bool]:
    """Return the row for such a start, and whether it is there already."""
    key = {
        "catalog_slug": replica.deployment.catalog_slug,
        "variant": revision.variant,
        "device_kind": device_kind(replica),
        "digest": digest(spec.settings, replica.engine_version),
    }
    row = Measurement.objects.filter(**key).first()
    if row is not None:
        return row, True
    made = Measurement(
        **key,
        engine_version=replica.engine_version,
        settings=msgspec.to_builtins(spec.settings),
    )
    return made, False


def device_kind(replica: Replica) -> str:
    """Return `cpu`, or the kind of the GPUs that `replica` runs on."""
    if not replica.gpu_uuids or replica.host is None:
        return str(Device.CPU)
    gpus = replica.host.inventory.get("gpus", ())
    names = [gpu["name"] for gpu in gpus if gpu["uuid"] in replica.gpu_uuids]
    return kind_of(names[0]) if names else "unknown"


def predicted_parts(revision: Revision) -> dict[str, int]:
    """Return by part what the revision was ordered with."""
    counts = ("gpus", "hosts")
    parts = {part: int(size) for part, size in revision.need.items() if part not in counts}
    return parts | {"kv_tokens": int(revision.fit.get("kv_tokens") or 0)}


def _estimated(replica: Replica, revision: Revision, spec: EngineSpec) -> dict[str, int]:
    """Return what the arithmetic alone gives now; empty if the catalog knows the model no more."""
    try:
        variant = catalog.get(replica.deployment.catalog_slug).variant(revision.variant)
    except (catalog.UnknownEntry, UnknownVariant):
        return {}
    kv_bytes = int(replica.engine_memory.get("kv_bytes", 0))
    return estimated_parts(variant, spec.settings, revision.device, kv_bytes)


def starts_of(slug: str) -> tuple[Start, ...]:
    """Return what has been measured of the model `slug`, the newest first. One query."""
    rows = Measurement.objects.filter(catalog_slug=slug).order_by("-measured_at", "-id")
    return tuple(map(_start, rows[:STARTS_READ]))


def _start(row: Measurement) -> Start:
    settings: dict[str, Any] = row.settings
    return Start(
        variant=row.variant,
        device_kind=row.device_kind,
        digest=row.digest,
        tensor_parallel=settings.get("tensor_parallel_size", 1),
        pipeline_parallel=settings.get("pipeline_parallel_size", 1),
        data_parallel=settings.get("data_parallel_size", 1),
        deals_experts=settings.get("enable_expert_parallel", False),
        kv_cache_dtype=settings.get("kv_cache_dtype") or "auto",
        estimated=row.estimated,
        measured=row.measured,
    )
