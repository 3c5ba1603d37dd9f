"""Every message that crosses between a gateway and the control plane, and the routing-table file.

`GET  /gateway/v1/table?known=<revision>&wait=<seconds>&host=<host name>` long poll -> RoutingTable
`POST /gateway/v1/live`  Live       -> LiveReply   at least once a second, sooner on a change
`POST /gateway/v1/usage` UsageBatch -> UsageAck    at least once; deduplicated by record id

All carry `Authorization: Bearer <gateway credential>`. The same RoutingTable JSON is what
`python -m gateway --table FILE` reads. Unknown fields are ignored; a wrong or missing one is
refused with its path (`msgspec.ValidationError`). Times are seconds since the Unix epoch (`_at`)
or durations (`_seconds`). Prompts and completions never cross.
"""

from enum import StrEnum

import msgspec

PROTOCOL_VERSION = 1


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value on the wire; decode with `decode(kind, body)`, encode with `encode(message)`."""


def encode(message: Message) -> bytes:
    """Return the JSON of `message`, UTF-8."""
    return msgspec.json.encode(message)


def decode[M: Message](kind: type[M], body: bytes) -> M:
    """Return `body` as a `kind`. Raises msgspec.ValidationError naming the wrong field."""
    return msgspec.json.decode(body, type=kind)


class RouteState(StrEnum):
    """Whether a replica takes new requests."""

    READY = "ready"
    DRAINING = "draining"  # finishes what it holds, takes nothing new
    STARTING = "starting"  # not there yet
    ASLEEP = "asleep"  # would hold requests invisibly; what it had without an answer moves on


class Queue(Message, frozen=True, kw_only=True):
    size: int = 256
    """Requests that may wait for a slot; one more is refused with 503."""
    timeout_seconds: float = 30.0
    wake_timeout_seconds: float = 600.0
    """The same while a wakeable deployment has no ready replica: a cold start takes minutes."""


class KvEvents(Message, frozen=True, kw_only=True):
    """Where an engine tells of its KV cache: ZeroMQ addresses, `ipc:///path` or `tcp://host:port`."""

    endpoint: str
    replay_endpoint: str


class ReplicaRoute(Message, frozen=True, kw_only=True):
    id: str
    url: str
    """`http://host:port[/prefix]` or `unix:/path/engine.sock`."""
    state: RouteState = RouteState.READY
    api_key: str = ""
    """Sent to the engine or the relay as `Authorization: Bearer`."""
    kv_cache_tokens: int | None = None
    ready_at: float | None = None
    """When it became ready: slow start counts from here."""
    kv_events: KvEvents | None = None
    """For the exact mode; None, or out of reach from here: the gateway's own index counts."""
    revision: int = 0
    """Number of the deployment's revision that it runs; 0 = not known."""


class Share(Message, frozen=True, kw_only=True):
    """What part of a deployment's requests one of its revisions gets."""

    revision: int
    weight_ratio: float = 0.0
    """Of the requests whose key no share names; the ratios of all shares add up to 1."""
    keys: tuple[str, ...] = ()
    """Ids of keys whose requests all go here."""


class Shadow(Message, frozen=True, kw_only=True):
    """Copies of requests for a revision whose answers nobody gets."""

    revision: int
    ratio: float
    """Of all requests that are sent to a replica."""


class Wake(Message, frozen=True, kw_only=True):
    """What to tell a request that waits for a deployment at zero replicas."""

    phase: str
    """`asleep`, `starting`, `fetching weights` …: shown in SSE comments."""
    eta_seconds: float | None = None


class ModelRoute(Message, frozen=True, kw_only=True):
    """One public model name."""

    deployment: str
    task: str = "chat"
    replicas: tuple[ReplicaRoute, ...] = ()
    max_in_flight_per_replica: int = 64
    queue: Queue = Queue()
    policy: str = "prefix"
    """`prefix` | `least-in-flight` | `power-of-two` | `round-robin` | `bounded-hash`."""
    profile: str = "balanced"
    """`latency` | `balanced` | `throughput`: weight of running streams in the prefix policy."""
    wakeable: bool = False
    """True if the control plane can bring a replica up when the gateway rings."""
    wake: Wake | None = None
    upstream_name: str = ""
    """Name the engine knows the model by; empty = the public name."""
    exact_usage: bool = False
    """Ask the engine for running usage in every chunk."""
    block_tokens: int = 16
    """Size of the engine's prefix-cache block."""
    prefill_tokens_per_second: float | None = None
    """Measured; None until known."""
    paths: tuple[str, ...] = ()
    """Plain HTTP paths of the engine that may be asked for at `/apis/<model><path>`."""
    context_tokens: int | None = None
    created_at: float = 0.0
    shares: tuple[Share, ...] = ()
    """How requests are split among revisions; empty: all replicas are alike."""
    shadow: Shadow | None = None


class Detour(Message, frozen=True, kw_only=True):
    """A public model name that another program answers, which then calls the deployment itself.

    A request for it holds no slot of the deployment and leaves no record: the program's own call,
    which names this request as its parent, does both.
    """

    deployment: str
    """What the program calls; a key for it is good for this name."""
    url: str
    """Where the program answers `/v1/chat/completions`: `http(s)://host:port[/prefix]`,
    `unix:/path`, or `/prefix` on the control plane that the gateway follows."""
    tenant: str = ""
    """For keys of this tenant alone the name is there; empty = for all."""
    created_at: float = 0.0


class KeyRoute(Message, frozen=True, kw_only=True):
    id: str
    sha256: str
    """Hex SHA-256 of the whole secret."""
    models: tuple[str, ...] = ("*",)
    rpm: int | None = None
    tpm: int | None = None
    max_in_flight: int | None = None
    expires_at: float | None = None
    tenant: str = ""
    """Salt of the prefix cache: keys of one tenant share cached prefixes."""
    budget_exhausted: bool = False
    """Its budget is used up: it is refused with 429 until a newer table says otherwise."""
    budget_low: bool = False
    """Most of its budget is used: answers carry `x-hearth-budget: low`."""
    budget_resets_at: float | None = None
    """When an exhausted budget begins anew."""


class RoutingTable(Message, frozen=True, kw_only=True):
    revision: int
    models: dict[str, ModelRoute] = {}
    detours: dict[str, Detour] = {}
    """By public model name; one that is in `models` too leads there."""
    keys: tuple[KeyRoute, ...] = ()


# --- Usage -----------------------------------------------------------------------------------


class Outcome(StrEnum):
    """How an admitted request ended. Exactly one record each."""

    COMPLETED = "completed"
    CLIENT_ABORTED = "client_aborted"
    FAILED = "failed"
    GATEWAY_LOST = "gateway_lost"  # the gateway died; closed at its next start
    SHADOW = "shadow"  # a copy whose answer nobody got, however it ended: `status` says how


class UsageRecord(Message, frozen=True, kw_only=True):
    id: str
    """Request id, as in `x-request-id`."""
    key_id: str = ""
    deployment: str = ""
    replica: str = ""
    model: str = ""
    path: str = ""
    stream: bool = False
    admitted_at: float
    queue_seconds: float = 0.0
    ttft_seconds: float | None = None
    total_seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0
    reasoning_tokens: int | None = None
    estimated: bool = False
    """True if tokens were counted from chunks because the engine's own usage never came."""
    outcome: Outcome
    status: int = 0
    error: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    retries: int = 0
    parent_id: str = ""
    """What the client calls the request; for a shadow the id of the request it copies."""
    revision: int = 0
    """Of the deployment; 0 = not known."""
    failed_revisions: tuple[int, ...] = ()
    """Of the replicas that failed it before another took it."""


class UsageBatch(Message, frozen=True, kw_only=True):
    protocol: int = PROTOCOL_VERSION
    gateway_id: str
    batch_id: str
    records: tuple[UsageRecord, ...]


class UsageAck(Message, frozen=True, kw_only=True):
    batch_id: str
    accepted: int
    """Records stored now; those already known are not counted again."""


# --- Live numbers ----------------------------------------------------------------------------

TTFT_BUCKETS_SECONDS = (
    0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0,
)  # fmt: skip
"""Upper bounds of the TTFT histogram; one more bucket counts what is above the last."""

GAP_BUCKETS_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5,
    1.0, 2.5, 5.0,
)  # fmt: skip
"""Upper bounds of the histogram of gaps between streamed chunks."""


class Counts(Message, frozen=True, kw_only=True):
    """Counters are cumulative since the gateway started; gauges are now."""

    in_flight: int = 0
    queued: int = 0
    requests_total: int = 0
    failed_total: int = 0
    refused_total: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    output_tokens_total: int = 0
    ttft_buckets: tuple[int, ...] = ()
    """Not cumulative over buckets; length `len(TTFT_BUCKETS_SECONDS) + 1`, or empty."""
    ttft_sum_seconds: float = 0.0
    gap_buckets: tuple[int, ...] = ()
    gap_sum_seconds: float = 0.0


class Live(Message, frozen=True, kw_only=True):
    protocol: int = PROTOCOL_VERSION
    gateway_id: str
    started_at: float
    """Tells a restart, and with it a reset of the counters."""
    seq: int
    host: str = ""
    listen: str = ""
    table_revision: int = -1
    deployments: dict[str, Counts] = {}
    replicas: dict[str, Counts] = {}
    ring: tuple[str, ...] = ()
    """Deployments at zero replicas with requests waiting: please wake."""
    spool_records: int = 0


class LiveReply(Message, frozen=True, kw_only=True):
    accepted: bool
    table_revision: int = -1
    """Newest revision of the control plane: a doorbell for the long poll."""
