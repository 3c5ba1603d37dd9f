"""What a host has free, as the fit sees it: plain values that the fleet fills in.

Free means really free: what other processes hold and what Hearth has booked for replicas that are
still starting are both taken off by whoever builds these values. Sizes are bytes. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from apps.catalog.entry import Device


@dataclass(frozen=True, kw_only=True)
class GpuRoom:
    uuid: str
    name: str
    kind: str = ""
    """As `h100`: one word for all names of the same chip."""
    total_bytes: int
    free_bytes: int
    compute_capability: str = ""
    """Such as `8.9`; empty if the driver did not tell."""
    taken: bool = False
    """A replica of ours has it for itself."""
    shared: bool = False
    """Replicas of ours take fractions of it: free for others that do, not for one alone."""
    nvlink_group: int | None = None
    """GPUs of one group reach each other over NVLink; None where the driver tells of no link."""
    is_slice: bool = False
    """A MIG slice: it cannot work together with other GPUs."""


@dataclass(frozen=True, kw_only=True)
class HostRoom:
    name: str
    memory_available_bytes: int
    """Main memory that a new replica may take, after a reserve for the system."""
    devices: frozenset[Device] = frozenset({Device.CPU})
    """Devices for which the host has an engine."""
    gpus: tuple[GpuRoom, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    engine_version: str = ""
    """Version of vLLM on the host; empty if unknown or not installed yet."""
    cpu_features: frozenset[str] | None = None
    """As `agents.engine_support.CPU_FEATURES` names them; None if unknown."""
