"""Hosts for the catalog's tests."""

from apps.catalog.entry import Device
from apps.catalog.fit import GpuRoom, HostRoom

GB = 10**9


def cpu_host(name="laptop", memory_bytes=16 * GB, **more):
    return HostRoom(name=name, memory_available_bytes=memory_bytes, **more)


def gpu(index=0, *, total_bytes=24 * GB, free_bytes=None, capability="8.9", name="NVIDIA L4"):
    return GpuRoom(
        uuid=f"GPU-{index}",
        name=name,
        total_bytes=total_bytes,
        free_bytes=total_bytes if free_bytes is None else free_bytes,
        compute_capability=capability,
    )


def gpu_host(name="rack", gpus=(), memory_bytes=64 * GB, **more):
    return HostRoom(
        name=name,
        memory_available_bytes=memory_bytes,
        devices=frozenset({Device.CPU, Device.CUDA}),
        gpus=tuple(gpus) or (gpu(),),
        **more,
    )
