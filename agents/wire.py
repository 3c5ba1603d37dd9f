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
from agents.phases import CacheKind as CacheKind
from agents.phases import CacheState as CacheState
from agents.phases import DesiredPhase as DesiredPhase
from agents.phases import ObservedPhase as ObservedPhase
from agents.phases import ReadKind as ReadKind
from agents.phases import Rung as Rung
from agents.stock import CacheOrder as CacheOrder
from agents.stock import CacheReport as CacheReport
from agents.stock import Lenders as Lenders
from agents.stock import Peer as Peer
from agents.stock import Progress as Progress
from agents.stock import WeightsRef as WeightsRef

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
    cpu_features: tuple[str, ...] | None = None
    """Those of `engine_support.CPU_FEATURES` that it has; None where the system lists none."""
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
    weights: dict[str, str] = {}
    """Weights that lie here whole and can be lent: key -> checksum over all their files."""
    group_address: str = ""
    """Where engines of other hosts reach engines of this one, for replicas over several hosts."""
    group_ports: tuple[int, int] = (29500, 29599)
    """First and last port where such a replica's engines may meet on this host."""


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
    can_sleep: bool = False
    """Start the engine so that it can be put to sleep: its deployment wants sleepers."""


class Seat(Message, frozen=True, kw_only=True):
    """One member's place in a replica that takes several hosts; rank 0 serves, the others work."""

    size: int
    rank: int
    master_address: str
    """Of the host of rank 0, as the other hosts reach it."""
    master_port: int
    own_address: str = ""
    """Of this member's host, as the other hosts reach it."""


class ReplicaOrder(Message, frozen=True, kw_only=True):
    replica_id: str
    deployment: str
    generation: int
    """Bumped on every change of this order; a restart is a higher generation."""
    desired: DesiredPhase
    spec: EngineSpec
    seat: Seat | None = None
    """None for a replica on one host."""
    answers_baseline: AnswersBaseline | None = None
    """What the live revision's first answers showed, None while nothing serves."""
    stop_grace_seconds: float = 20.0
    """From SIGTERM to SIGKILL; also passed to the engine as its shutdown timeout."""


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
    lenders: tuple[Lenders, ...] = ()
    """Who has the weights that this host may have to bring, for replicas and cache items alike."""
    requests: tuple[ReadOrder, ...] = ()
    relay_key_sha256: tuple[str, ...] = ()
    """Hex SHA-256 of the keys with which gateways may use this host's relay."""
    weights_key_sha256: tuple[str, ...] = ()
    """The same of the keys with which other hosts may copy weights from it."""


# --- Reports ---------------------------------------------------------------------------------


class Nap(Message, frozen=True, kw_only=True):
    """A sleep as it was measured, not as the engine told it."""

    level: int
    """1: weights moved to the host's memory; 2: dropped, and read again at the wake-up."""
    held_bytes: int
    """Device memory before (host memory of the engine where there is no GPU)."""
    residual_bytes: int
    """The same once it slept: what stays reserved."""
    seconds: float


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
    (this host's policy or the engine's settings do not allow it), `cannot_sleep` (ready: the
    engine slept and gave nothing back), `sleep_off` (ready: it was started without sleep),
    `sleep_failed`, `wake_failed`, `bad_answers` (the model's first answers make no sense),
    `port_taken` (where the engines of a replica over several hosts were to meet)."""
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    """Last 50 lines, with `failed` only."""
    stage_seconds: dict[str, float] = {}
    """Seconds each stage took so far: the cold-start timeline. A wake-up has `wake`."""
    stage_bytes: dict[str, int] = {}
    """Bytes that a stage brought or read, where it is known."""
    rung: Rung | None = None
    """From where the last start came; None while that is not known."""
    start_seconds: float | None = None
    """The last start as a whole, from the order taken up to the first token; stages and what lies
    between them."""
    nap: Nap | None = None
    """The sleep it is in, or the last one."""
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
