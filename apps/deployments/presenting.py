"""Deployments, replicas and revisions as the API's JSON. Makes no query but `statuses_of`'s own.

Plain dictionaries in the shapes of `serializers`; a test holds the two together.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from agents.wire import EngineSpec
from apps.deployments import rollout_policy
from apps.deployments.models import Deployment, Member, Replica, Revision, ScalerState
from apps.deployments.queries import StartProgress, Status, rollout_of, statuses_of
from apps.deployments.rollout_presenting import rolling_row
from apps.deployments.scaling_checks import warnings
from apps.deployments.states import ReplicaPhase
from apps.telemetry.numbers import FleetNumbers, Flow, ReplicaNumbers

SCALING_FIELDS = (
    "min_replicas", "max_replicas", "target_concurrency", "asleep_replicas", "cached_replicas",
    "asleep_ttl_seconds", "shares_pool", "profile", "rule", "scale_to_zero_after_seconds",
    "hold_seconds", "schedule", "gpu_budget", "ttft_target_seconds",
)  # fmt: skip


def deployment_rows(
    deployments: Sequence[Deployment], numbers: FleetNumbers, endpoint: str
) -> list[dict[str, Any]]:
    """Return the JSON of rows of `queries.deployments()` or `listing.complete`."""
    return [
        _deployment_row(deployment, status, numbers, endpoint)
        for deployment, status in zip(deployments, statuses_of(deployments), strict=True)
    ]


def _deployment_row(
    deployment: Deployment, status: Status, numbers: FleetNumbers, endpoint: str
) -> dict[str, Any]:
    scaling, rollout = deployment.scaling, rollout_of(deployment)
    scaler: ScalerState | None = getattr(deployment, "scaler", None)
    return {
        "id": deployment.id,
        "name": deployment.name,
        "catalog": deployment.catalog_slug,
        "task": status.task,
        "variant": status.variant,
        "engine": {**status.settings, "kind": status.engine},
        "simulated": status.simulated,
        "desired": deployment.desired,
        "phase": status.phase,
        "reason": status.reason,
        "revision": status.revision,
        "newest_revision": status.newest_revision,
        "ready_replicas": status.ready_replicas,
        "wanted_replicas": status.wanted_replicas,
        "progress": None if status.progress is None else _progress(status.progress),
        "scaling": {
            **{name: getattr(scaling, name) for name in SCALING_FIELDS},
            "warnings": warnings(scaling, scaler.start_seconds if scaler else None),
        },
        "rollout": rollout_policy.to_json(rollout_policy.stored(deployment.rollout)),
        "rolling": None if rollout is None else rolling_row(rollout),
        "owner": deployment.owner,
        "resources": deployment.resources,
        "placement": deployment.placement,
        "endpoint": endpoint,
        "live": _live(numbers.deployments.get(deployment.name, Flow()), stale=numbers.stale),
        "generation": deployment.generation,
        "observed_generation": deployment.observed_generation,
        "created_by": deployment.created_by,
        "created_at": deployment.created_at,
        "changed_at": deployment.changed_at,
    }


def _progress(progress: StartProgress) -> dict[str, Any]:
    return {
        "phase": progress.phase,
        "stage": progress.stage,
        "ratio": progress.ratio,
        "eta_seconds": progress.eta_seconds,
        "stage_seconds": progress.stage_seconds,
        "replica": progress.replica_id,
    }


def _live(flow: Flow, *, stale: bool) -> dict[str, Any]:
    return {
        "stale": stale,
        "in_flight": flow.in_flight,
        "queued": flow.queued,
        "requests_per_second": flow.requests_per_second,
        "tokens_per_second": flow.output_tokens_per_second,
        "ttft_p50_seconds": flow.ttft_p50_seconds,
        "ttft_p95_seconds": flow.ttft_p95_seconds,
        "prefix_cache_hit_ratio": flow.prefix_cache_hit_ratio,
    }


_REPLICA_COLUMNS = (
    "id", "phase", "phase_at", "desired", "reason", "code", "exit_code", "failures", "retry_at",
    "restarts", "created_at", "ready_at", "stage_seconds", "progress", "gpu_uuids", "memory_bytes",
    "runtime", "runtime_ref", "engine_version", "kv_cache_tokens", "answers", "nap",
)  # fmt: skip


_MEMBER_COLUMNS = ("rank", "gpu_uuids", "phase", "phase_at", "reason", "code", "log_tail")


def replica_row(
    replica: Replica, numbers: FleetNumbers, parts: Iterable[Member] = ()
) -> dict[str, Any]:
    """Return the JSON of a replica that was read with its host and revision.

    `parts` are its members if it takes several hosts, read with their hosts.
    """
    return {
        **{name: getattr(replica, name) for name in _REPLICA_COLUMNS},
        "revision": replica.revision.number,
        "host": replica.host.name if replica.host else None,
        "members": [
            {"host": part.host.name, **{name: getattr(part, name) for name in _MEMBER_COLUMNS}}
            for part in parts
        ],
        "log_tail": replica.log_tail if replica.phase == ReplicaPhase.FAILED else [],
        "live": _replica_live(numbers.replicas.get(str(replica.id), ReplicaNumbers())),
    }


def _replica_live(numbers: ReplicaNumbers) -> dict[str, Any]:
    return {
        **_live(numbers.flow, stale=False),
        "running": numbers.running,
        "waiting": numbers.waiting,
        "kv_cache_usage_ratio": numbers.kv_cache_usage_ratio,
        "memory_bytes": numbers.memory_bytes,
    }


def revision_row(
    revision: Revision, live: set[int], state: str, changes: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the JSON of a revision; `live` holds the numbers of those that serve."""
    spec = msgspec.convert(revision.spec, EngineSpec)
    return {
        "number": revision.number,
        "live": revision.number in live,
        "state": state,
        "changes": changes,
        "variant": revision.variant,
        "device": revision.device,
        "engine": {**revision.settings, "kind": revision.engine},
        "settings": msgspec.to_builtins(spec.settings),
        "need": revision.need,
        "sleep_fault": revision.sleep_fault,
        "created_by": revision.created_by,
        "created_at": revision.created_at,
    }
