"""Orders for devices that are not on this host (any more): refused, and nothing half done."""

import msgspec

from agents.inventory import Gpus
from agents.wire import GpuInfo, ReplicaOrder
from tests.agents.fakes import FakeWeights, order
from tests.agents.host import AgentHost


class FewGpus(Gpus):
    """The GPUs of `uuids`, which a test changes."""

    def __init__(self, *uuids: str) -> None:
        super().__init__()
        self.uuids = list(uuids)

    def read(self) -> tuple[GpuInfo, ...]:
        return tuple(
            GpuInfo(
                uuid=uuid, index=number, name="NVIDIA L4", memory_total_bytes=24 << 30,
                memory_used_bytes=0,
            )
            for number, uuid in enumerate(self.uuids)
        )  # fmt: skip


def on_gpus(*uuids: str) -> ReplicaOrder:
    plain = order()
    spec = msgspec.structs.replace(plain.spec, gpu_uuids=uuids)
    return msgspec.structs.replace(plain, spec=spec)


async def test_a_gpu_that_vanished_between_plan_and_start_is_named(host: AgentHost) -> None:
    host.gpus = FewGpus("GPU-1")
    await host.control_plane.order(on_gpus("GPU-1", "GPU-2"))
    await host.start()

    report = await host.control_plane.until_phase("r1", "failed")

    assert report.code == "gpu_gone"
    assert report.reason == "GPU GPU-2 is gone from this host; nothing was started"
    assert host.runtime.instances == {}


async def test_a_gpu_that_vanished_while_the_weights_came_is_named(host: AgentHost) -> None:
    gpus = host.gpus = FewGpus("GPU-1")

    class Slow(FakeWeights):
        async def ensure(self, ref, tell):
            gpus.uuids.clear()
            return await super().ensure(ref, tell)

    host.weights = Slow(host.folder)
    await host.control_plane.order(on_gpus("GPU-1"))
    await host.start()

    report = await host.control_plane.until_phase("r1", "failed")

    assert report.code == "gpu_gone"
    assert host.runtime.instances == {}


async def test_a_gpu_that_is_here_is_taken(host: AgentHost) -> None:
    host.gpus = FewGpus("GPU-1", "GPU-2")
    await host.control_plane.order(on_gpus("GPU-2"))
    await host.start()

    await host.control_plane.until_phase("r1", "ready")
