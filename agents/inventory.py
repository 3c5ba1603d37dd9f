"""What this host is and how busy it is: CPU, memory, disk, GPUs by NVML.

`Host.inventory` is the whole picture, made at enrolment and when it changes; `Host.sample` is one
second's numbers. NVML is loaded only where its library is: the binding alone costs 8 MB.
"""

import ctypes
import importlib
import itertools
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from agents import cpu
from agents.engine_support import CPU_FEATURES
from agents.wire import GpuInfo, HostSample, Inventory, RuntimeKind

AGENT_VERSION = "0.1.0"
NVML_LIBRARY = "libnvidia-ml.so.1"


class Gpus:
    """The GPUs that NVML knows; without a driver there are none."""

    def __init__(self) -> None:
        self._nvml = _load_nvml()
        self._groups: dict[int, int] = {}
        self._linked = 0

    @property
    def driver_version(self) -> str:
        return _text(self._ask("nvmlSystemGetDriverVersion")) if self._nvml else ""

    def read(self) -> tuple[GpuInfo, ...]:
        """Return every GPU that answers; of one that is cut up, its slices in its place.

        Blocks for a few milliseconds a GPU.
        """
        count = (self._ask("nvmlDeviceGetCount") or 0) if self._nvml else 0
        handles = {n: self._ask("nvmlDeviceGetHandleByIndex", n) for n in range(count)}
        if count != self._linked:
            self._groups, self._linked = self._link(handles), count
        return tuple(gpu for index, handle in handles.items() for gpu in self._all(index, handle))

    def _link(self, handles: dict[int, Any]) -> dict[int, int]:
        """Return by index the group of GPUs that reach each other over NVLink or NVSwitch.

        A group is called by its first GPU; one without links is in none. Asked once: links do not
        change while the driver runs.
        """
        nvlink = getattr(self._nvml, "NVML_P2P_CAPS_INDEX_NVLINK", 2)
        groups: dict[int, int] = {}
        for one, other in itertools.combinations(handles, 2):
            status = self._ask("nvmlDeviceGetP2PStatus", handles[one], handles[other], nvlink)
            if status == 0:  # NVML_P2P_STATUS_OK
                groups[other] = groups.setdefault(one, one)
        return groups

    def _all(self, index: int, handle: Any) -> Iterator[GpuInfo]:  # noqa: ANN401
        """Yield the GPU of `index`, or the MIG slices that it is cut into."""
        mode = self._ask("nvmlDeviceGetMigMode", handle)
        if not mode or not mode[0]:
            whole = self._read_one(index, handle)
            yield from () if whole is None else (whole,)
            return
        parent = _text(self._ask("nvmlDeviceGetUUID", handle))
        for number in range(self._ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            cut = self._ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
            found = self._read_one(index, cut)
            if found is not None:
                capability = self._ask("nvmlDeviceGetCudaComputeCapability", handle)
                yield msgspec.structs.replace(
                    found,
                    parent_uuid=parent,
                    nvlink_group=None,
                    compute_capability=".".join(map(str, capability)) if capability else "",
                )

    def _read_one(self, index: int, handle: Any) -> GpuInfo | None:  # noqa: ANN401
        """Return one GPU or slice, None if it has fallen off the bus."""
        uuid = self._ask("nvmlDeviceGetUUID", handle)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        if uuid is None or memory is None:
            return None
        capability = self._ask("nvmlDeviceGetCudaComputeCapability", handle)
        utilization = self._ask("nvmlDeviceGetUtilizationRates", handle)
        milliwatts = self._ask("nvmlDeviceGetPowerUsage", handle)
        celsius = self._ask("nvmlDeviceGetTemperature", handle, 0)  # 0: the chip's own sensor
        return GpuInfo(
            uuid=_text(uuid),
            index=index,
            name=_text(self._ask("nvmlDeviceGetName", handle)),
            memory_total_bytes=memory.total,
            memory_used_bytes=memory.used,
            compute_capability=".".join(map(str, capability)) if capability else "",
            nvlink_group=self._groups.get(index),
            utilization_ratio=None if utilization is None else utilization.gpu / 100,
            power_watts=None if milliwatts is None else milliwatts / 1000,
            temperature_celsius=None if celsius is None else float(celsius),
        )

    def _ask(self, function: str, *arguments: object) -> Any:  # noqa: ANN401
        """Return what NVML answers, None if this GPU or driver cannot tell."""
        if self._nvml is None or None in arguments:
            return None
        try:
            return getattr(self._nvml, function)(*arguments)
        except self._nvml.NVMLError:
            return None


class Host:
    """This host. `runtime` and `runtime_reason` say how it runs replicas."""

    def __init__(
        self, data_dir: Path, gpus: Gpus, runtime: RuntimeKind, runtime_reason: str, *,
        group_address: str = "", group_ports: tuple[int, int] = (29500, 29599),
    ) -> None:  # fmt: skip
        self.runtime = runtime
        self.runtime_reason = runtime_reason
        self._data_dir = data_dir
        self._gpus = gpus
        self._group_address, self._group_ports = group_address, group_ports
        psutil.cpu_percent(None)  # the first reading only sets the mark for the next

    @property
    def has_gpus(self) -> bool:
        return bool(self._gpus.read())

    def hardware(self, uuids: tuple[str, ...]) -> str:
        """Return the kind of these GPUs and their driver, or of the processor without any."""
        if not uuids:
            return cpu.model()
        names = sorted(gpu.name for gpu in self._gpus.read() if gpu.uuid in uuids)
        return ",".join([*names, self._gpus.driver_version])

    def missing_gpus(self, uuids: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of `uuids` that the driver does not list now."""
        if not uuids:
            return ()
        here = {gpu.uuid for gpu in self._gpus.read()}
        return tuple(uuid for uuid in uuids if uuid not in here)

    def gpu_used_bytes(self, uuids: tuple[str, ...]) -> int:
        """Return the memory in use on these GPUs together, by whomever."""
        return sum(gpu.memory_used_bytes for gpu in self._gpus.read() if gpu.uuid in uuids)

    def memory_available_bytes(self) -> int:
        """Return the main memory that is free now."""
        return int(psutil.virtual_memory().available)

    def inventory(self, engine_versions: dict[str, str], relay_url: str) -> Inventory:
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(str(self._data_dir))
        return Inventory(
            hostname=platform.node(),
            os=_os_name(),
            architecture=platform.machine(),
            cpu_model=cpu.model(),
            cpu_features=_telling(cpu.features()),
            cpu_count=len(os.sched_getaffinity(0)),
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
            disk_total_bytes=disk.total,
            disk_free_bytes=disk.free,
            gpus=self._gpus.read(),
            driver_version=self._gpus.driver_version,
            agent_version=AGENT_VERSION,
            runtime=self.runtime,
            runtime_reason=self.runtime_reason,
            engine_versions=engine_versions,
            boot_id=_first_line(Path("/proc/sys/kernel/random/boot_id")),
            relay_url=relay_url,
            group_address=self._group_address,
            group_ports=self._group_ports,
        )

    def sample(self, now: float) -> HostSample:
        """Return the numbers of this second; CPU since the last call."""
        memory = psutil.virtual_memory()
        return HostSample(
            at=now,
            cpu_ratio=psutil.cpu_percent(None) / 100,
            memory_used_bytes=memory.total - memory.available,
            disk_free_bytes=psutil.disk_usage(str(self._data_dir)).free,
            gpus=self._gpus.read(),
        )


def lasting(inventory: Inventory) -> tuple[object, ...]:
    """Return what of `inventory` is worth telling when it changes: not the busy numbers."""
    gpus = tuple((g.uuid, g.name, g.memory_total_bytes, g.nvlink_group) for g in inventory.gpus)
    return (
        gpus, inventory.memory_total_bytes, inventory.disk_total_bytes, inventory.driver_version,
        inventory.runtime, inventory.runtime_reason, inventory.relay_url,
        inventory.group_address, inventory.group_ports,
        tuple(sorted(inventory.engine_versions.items())), inventory.weights,
    )  # fmt: skip


def has_nvidia_driver() -> bool:
    """Return whether NVML's library can be loaded on this host."""
    try:
        ctypes.CDLL(NVML_LIBRARY)
    except OSError:
        return False
    return True


def _load_nvml() -> Any:  # noqa: ANN401
    """Return the initialised binding, None where there is no driver."""
    if not has_nvidia_driver():
        return None
    nvml = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _text(value: Any) -> str:  # noqa: ANN401
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _telling(features: frozenset[str] | None) -> tuple[str, ...] | None:
    """Return what of a CPU's features decides about engines, sorted."""
    return None if features is None else tuple(sorted(features & CPU_FEATURES))


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
