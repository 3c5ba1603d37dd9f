"""A deployment as the document that would make it so: what is default is left out."""

from collections.abc import Mapping
from typing import Any

from apps.deployments import queries, rollout_policy
from apps.deployments.as_code import manifest
from apps.deployments.models import Deployment, ScalingPolicy
from apps.deployments.presenting import SCALING_FIELDS
from apps.deployments.rollout_policy import RolloutPolicy
from apps.deployments.rollouts import policy_of


def exported(deployment: Deployment) -> dict[str, Any]:
    """Return the document of a row from `queries.deployments()`."""
    target = queries.target_of(deployment)
    scaling = {name: getattr(deployment.scaling, name) for name in SCALING_FIELDS}
    document = {
        "name": deployment.name,
        "catalog": deployment.catalog_slug,
        "variant": target.variant,
        "engine": target.settings,
        "scaling": _without(scaling, scaling_defaults()),
        "rollout": _without(
            rollout_policy.to_json(policy_of(deployment)), rollout_policy.to_json(RolloutPolicy())
        ),
        "placement": _set(deployment.placement),
        "resources": _set(deployment.resources),
    }
    return {name: value for name, value in document.items() if value not in ({}, "")}


def text_of(deployment: Deployment) -> str:
    """Return the document as YAML."""
    return manifest.dump([exported(deployment)])


def scaling_defaults() -> dict[str, Any]:
    """Return what scaling is when nothing is said."""
    policy = ScalingPolicy()
    return {name: getattr(policy, name) for name in SCALING_FIELDS}


def _without(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that differ from their defaults, nested ones too; as plain values."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            if nested := _without(value, default):
                found[name] = nested
        elif value != default:
            found[name] = str(value) if isinstance(value, str) else value
    return found


def _set(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value not in (None, "", [], {}, False)}
