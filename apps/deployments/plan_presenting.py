"""A dry run as JSON. Called by the API."""

from dataclasses import asdict
from typing import Any

import msgspec

from apps.catalog.fit import GroupFit
from apps.deployments.dry_run import HostAnswer, Plan
from apps.deployments.reconcile.placement import NotPlaced, Placed, shown_refusals


def plan_row(plan: Plan) -> dict[str, Any]:
    """Return the JSON of a dry run."""
    recipe = plan.recipe
    return {
        "fits": plan.fits,
        "catalog": plan.catalog,
        "name": plan.name,
        "variant": recipe.variant,
        "device": recipe.spec.device,
        "simulated": plan.simulated,
        "reason": recipe.reason,
        "engine": msgspec.to_builtins(recipe.spec.settings),
        "need": recipe.need,
        "hosts": [_host_answer(answer) for answer in plan.hosts],
        "first_replica": _first_replica(plan.first_replica),
        "group": None if plan.group is None else _group(plan.group),
        "cost_per_hour_usd": plan.cost_per_hour_usd,
        "differences": [asdict(difference) for difference in plan.differences],
        "takeover": None if plan.takeover is None else asdict(plan.takeover),
    }


def _first_replica(found: Placed | NotPlaced) -> dict[str, Any]:
    placed = found if isinstance(found, Placed) else None
    return {
        "host": placed.host_name if placed else "",
        "gpu_uuids": list(placed.gpu_uuids) if placed else [],
        "members": [_member(rank, place) for rank, place in enumerate(placed.places)]
        if placed and placed.others
        else [],
        "reason": found.why,
        "fitted": placed.fitted if placed else 0,
        "candidates": [asdict(candidate) for candidate in (placed.candidates if placed else ())],
        **shown_refusals(found),
    }


def _member(rank: int, place: Placed) -> dict[str, Any]:
    return {"rank": rank, "host": place.host_name, "gpu_uuids": list(place.gpu_uuids)}


def _group(group: GroupFit) -> dict[str, Any]:
    return {
        "hosts": list(group.hosts),
        "gpu_kind": group.gpu_kind,
        "gpus_each": group.gpus_each,
        "variant": group.fit.variant,
        "settings": msgspec.to_builtins(group.fit.settings),
        "reserve_bytes": group.fit.reserve_bytes,
        "reason": str(group),
    }


def _host_answer(answer: HostAnswer) -> dict[str, Any]:
    fit = answer.fit
    return {
        "host": fit.host,
        "fits": fit.fits,
        "variant": fit.variant,
        "device": fit.device,
        "reason": fit.reason,
        "reserve_bytes": fit.reserve_bytes,
        "missing_bytes": fit.missing_bytes,
        "remedies": [asdict(remedy) for remedy in fit.remedies],
        "need": {} if fit.need is None else asdict(fit.need),
        "learned": dict(fit.lesson.sources),
        "gpus": len(fit.gpu_uuids),
        "kv_cache_tokens": fit.kv_tokens,
        "full_length_requests": fit.full_length_requests,
        "cost_per_hour_usd": answer.cost_per_hour_usd,
        "price_is_default": answer.price_is_default,
    }
