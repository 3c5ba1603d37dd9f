"""One member of a replica over several hosts, as its agent runs it."""

import socket

import msgspec
import psutil

from agents import seating
from agents.wire import ReplicaOrder, Seat
from tests.agents.fakes import order
from tests.agents.host import AgentHost


def seated(rank: int, port: int = 29555) -> ReplicaOrder:
    seat = Seat(
        size=2, rank=rank, master_address="127.0.0.1", master_port=port, own_address="127.0.0.1"
    )
    return msgspec.structs.replace(order(), seat=seat)


class TestHead:
    async def test_is_ready_when_it_answers_as_any_replica(self, host: AgentHost) -> None:
        host.runtime.is_ready_at_once = False
        await host.control_plane.order(seated(0))
        await host.start()
        await host.control_plane.until_phase("r1", "starting")

        host.runtime.servers["hearth-r1-g1"].is_ready.set()

        await host.control_plane.until_phase("r1", "ready")

    async def test_is_not_started_where_another_process_has_the_port(self, host: AgentHost) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            await host.control_plane.order(seated(0, port))
            await host.start()

            report = await host.control_plane.until_phase("r1", "failed")

        assert report.code == "port_taken"
        assert f"cannot meet on port {port}" in report.reason
        assert host.runtime.instances == {}


class TestWorker:
    async def worker(self, host: AgentHost) -> None:
        host.runtime.is_ready_at_once = False  # it serves nothing, so it never answers
        await host.control_plane.order(seated(1))
        await host.start()
        await host.control_plane.until_phase("r1", "ready")

    async def test_is_ready_as_soon_as_it_runs(self, host: AgentHost) -> None:
        await self.worker(host)

        assert host.runtime.count("start") == 1

    async def test_fails_when_it_ends(self, host: AgentHost) -> None:
        await self.worker(host)

        await host.runtime.end("hearth-r1-g1", 1)

        report = await host.control_plane.until_phase("r1", "failed")
        assert report.exit_code == 1

    async def test_is_adopted_by_the_next_agent(self, host: AgentHost) -> None:
        await self.worker(host)

        await host.restart()
        await host.control_plane.until_phase("r1", "ready")

        assert host.runtime.count("start") == 1


def test_the_interface_of_an_address_is_found() -> None:
    name = seating.interface_of("127.0.0.1")

    assert any(one.address == "127.0.0.1" for one in psutil.net_if_addrs()[name])
    assert seating.interface_of("192.0.2.1") == ""
