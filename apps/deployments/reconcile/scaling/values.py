"""What an autoscaler sees, remembers and answers. Frozen values that go through JSON unchanged.

Times `at` are seconds since the Unix epoch (in a simulation: of the trace). Built by
`scaler.observe` for a live deployment and by `simulate` for a trace; read by `autoscale.decide`.
"""

import msgspec

from apps.deployments.states import ScalingProfile, ScalingRule

TICK_SECONDS = 2.0
"""How often a deployment is decided on."""


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A frozen value; unknown fields in stored JSON are ignored."""


class Window(Value, frozen=True, kw_only=True):
    """Bounds that hold for `duration_seconds` from each firing of `cron` in `timezone`."""

    cron: str
    duration_seconds: int
    timezone: str = "UTC"
    min_replicas: int | None = None
    max_replicas: int | None = None


class Policy(Value, frozen=True, kw_only=True):
    """What people want, and what a replica of this deployment takes."""

    min_replicas: int = 1
    max_replicas: int = 1
    target_concurrency: int = 8
    """Requests in flight that one replica is meant to hold."""
    rule: ScalingRule = ScalingRule.HEARTH
    profile: ScalingProfile = ScalingProfile.BALANCED
    hold_seconds: float = 300.0
    scale_to_zero_after_seconds: float = 600.0
    schedule: tuple[Window, ...] = ()
    gpu_budget: int | None = None
    gpus_per_replica: int = 0
    ttft_target_seconds: float | None = None


class Observations(Value, frozen=True, kw_only=True):
    """What was seen at one tick."""

    at: float
    fresh: bool = True
    """False: no gateway has told its numbers lately; the numbers below say nothing."""
    silent_seconds: float = 0.0
    """How long that has been so."""
    in_flight: int = 0
    queued: int = 0
    """Requests that wait at the gateways for a slot."""
    admitted: int = 0
    """Requests given to a replica since the tick before."""
    ready: int = 0
    starting: tuple[float, ...] = ()
    """Of each replica that is coming: seconds until it should be ready, at least 0."""
    stuck: int = 0
    """Replicas that failed or take far longer than a start should: no supply for now."""
    unplaced: int = 0
    """Replicas that no host has room for; among neither of the above."""
    missing: str = ""
    """What those lack, in words."""
    start_seconds: float = 60.0
    """p90 of the measured starts from the rung that would be used next."""
    running: int | None = None
    """In the engines' batches; None where no engine tells."""
    waiting: int | None = None
    """In the engines' own queues."""
    ttft_p95_seconds: float | None = None
    """Over the last minute."""
    seasonal: float = 0.0
    """Requests in flight at once that history says will come within a start; 0 is no history."""
    rung: bool = False
    """A gateway asks for a replica: requests wait and none is ready."""


class Hold(Value, frozen=True, kw_only=True):
    """The needs of a window, as its falling maxima: `(at, need)`, newest last."""

    maxima: tuple[tuple[float, int], ...] = ()

    def add(self, at: float, need: int, seconds: float) -> "Hold":
        """Return the hold with `need` at `at`, without what is older than `seconds`."""
        kept = [m for m in self.maxima if m[0] > at - seconds and m[1] > need]
        return Hold(maxima=(*kept, (at, need)))

    @property
    def most(self) -> int:
        """The largest need of the window; 0 if it is empty."""
        return self.maxima[0][1] if self.maxima else 0


class HearthMemory(Value, frozen=True, kw_only=True, tag="hearth"):
    """What the rule `hearth` remembers."""

    hold: Hold = Hold()
    in_flight_seconds: float = 0.0
    completed: float = 0.0
    """Fading sums; their quotient is the service time (Little's law)."""
    capacity: float = 0.0
    """Learned: what a replica held when its engine began to queue; 0 is not known."""
    offered: tuple[float, ...] = ()
    """Offered concurrency of the last stable window, newest last."""
    held: tuple[int, ...] = ()
    """In flight, over the same window."""
    arrivals: tuple[int, ...] = ()
    """Per tick, as far back as a service time reaches, newest last."""
    queued: int = 0
    in_flight: int = 0
    fast: float = 0.0
    slow: float = 0.0
    """Fading means of the offered concurrency; their difference is its trend."""
    mean_arrivals: float = 0.0
    mean_square: float = 0.0
    """Fading means of the arrivals of a tick and of their square: how bursty traffic is."""
    burst_weight: float = 0.0
    """How much of those means was seen: 1 is all."""


class KnativeMemory(Value, frozen=True, kw_only=True, tag="knative"):
    concurrency: tuple[float, ...] = ()
    panic_at: float | None = None
    panic_most: int = 0
    delay: Hold = Hold()


class HpaMemory(Value, frozen=True, kw_only=True, tag="hpa"):
    """Of Kubernetes' HPA and of KEDA, which drives one."""

    synced_at: float | None = None
    polled_at: float | None = None
    metric: float = 0.0
    desired: int | None = None
    recommended: tuple[tuple[float, int], ...] = ()
    events: tuple[tuple[float, int], ...] = ()
    """`(at, replicas before)` of each rise within the policy period."""
    active_at: float | None = None


class RayMemory(Value, frozen=True, kw_only=True, tag="ray"):
    ongoing: tuple[float, ...] = ()
    up_since: float | None = None
    down_since: float | None = None
    desired: int | None = None


type Memory = HearthMemory | KnativeMemory | HpaMemory | RayMemory


class State(Value, frozen=True, kw_only=True):
    """What is remembered of one deployment between two ticks."""

    at: float
    """Of the last tick."""
    wanted: int
    keep: int = 0
    """After a restart: what was seen then is needed until `keep_until`."""
    keep_until: float = 0.0
    busy_at: float = 0.0
    """When it last had a request, or came up: the clock of scale-to-zero."""
    frozen: bool = False
    frozen_at: float = 0.0
    """Since when the numbers have been missing, or were last."""
    memory: Memory | None = None


class Need(Value, frozen=True, kw_only=True):
    """What a rule answers: replicas, before bounds; why, in numbers and in words."""

    replicas: int
    memory: Memory
    terms: dict[str, float] = {}
    reason: str = ""


class Decision(Value, frozen=True, kw_only=True):
    """What is wanted from now on."""

    wanted: int
    state: State
    reason: str
    terms: dict[str, float] = {}
    changed: bool = False
    """Another number than before."""
    at_zero: bool = False
    """Nothing is wanted because nobody asks; a request brings it back."""
