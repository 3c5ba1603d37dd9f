"""What people order, as plain values. Built by the API and the pages, carried out by `actions`."""

from dataclasses import dataclass, field
from typing import Any

MAX_REPLICAS = 1000
DRAIN_SECONDS = 30.0
"""How long a leaving replica may finish its requests."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Wanted numbers; None keeps what is set, or the default on creation."""

    min_replicas: int | None = None
    max_replicas: int | None = None
    target_concurrency: int | None = None
    asleep_replicas: int | None = None
    cached_replicas: int | None = None
    asleep_ttl_seconds: int | None = None
    """0 keeps sleepers for ever."""
    shares_pool: bool | None = None
    profile: str | None = None
    rule: str | None = None
    scale_to_zero_after_seconds: int | None = None
    hold_seconds: int | None = None
    schedule: list[dict[str, Any]] | None = None
    """`[{cron, timezone, duration_seconds, min_replicas, max_replicas}]`; `[]` takes it away."""
    gpu_budget: int | None = None
    """0 takes the limit away."""
    ttft_target_seconds: float | None = None
    """0 takes it away."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    memory_bytes: int | None = None
    """Memory limit of a CPU replica; None takes the estimate."""
    full_length_requests: int = 1
    """How many requests of full length the KV cache must hold at once."""
    gpu_ratio: float | None = None
    """Fraction of one GPU that a replica takes, the rest is for others; None takes whole GPUs."""


@dataclass(frozen=True, kw_only=True)
class PlacementWish:
    host: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    device: str = ""
    """`cpu` or `cuda`; empty lets Hearth choose."""
    gpu_kind: str = ""
    """As `h100`; empty takes any GPU that is new enough."""
    tolerations: tuple[dict[str, str], ...] = ()
    """`{key}` or `{key, value}`: taints of hosts that this order accepts."""
    strategy: str = ""
    """`spread` (the default) or `binpack`."""
    wait: bool = False
    """Accept the order although nothing fits now, and place it once something does."""


@dataclass(frozen=True, kw_only=True)
class NewDeployment:
    catalog: str
    name: str | None = None
    variant: str | None = None
    engine: dict[str, Any] = field(default_factory=dict)
    """Engine settings over the variant's own; the extra keys `kind` and `simulator` choose and
    tune the simulator."""
    scaling: Scaling = Scaling()
    resources: Resources = Resources()
    placement: PlacementWish = PlacementWish()
    rollout: dict[str, Any] = field(default_factory=dict)
    """Of `rollout_policy.RolloutPolicy`; what is not given is the default."""
    by_admin: bool = False
    """An admin orders it: settings for admins alone may be given."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a deployment; None leaves as it is. `engine` or `variant` make a new revision."""

    variant: str | None = None
    engine: dict[str, Any] | None = None
    scaling: Scaling | None = None
    rollout: dict[str, Any] | None = None
    """Goes over the policy that is set."""
    placement: PlacementWish | None = None
    resources: Resources | None = None
    by_admin: bool = False
    if_generation: int | None = None
    """Refuse when the deployment has changed since the caller read it, and say what changed."""
    conflict_status: int = 412
    """What that refusal is: 412 for a header, 409 for a member of the body."""
