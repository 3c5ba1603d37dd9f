"""Usage on its way to the control plane: what is refused, what is garbage, what is late."""

import asyncio
import json
import time

import pytest

from gateway import ship
from gateway.link import Link, LinkError
from gateway.ship import Shipper
from tests.gateway.control_plane import CREDENTIAL, ControlPlane, control_plane
from tests.gateway.harness import table, until


def line(name: str) -> bytes:
    record = {"id": name, "admitted_at": 1.0, "outcome": "completed"}
    return json.dumps(record).encode() + b"\n"


@pytest.fixture
def log(tmp_path):
    (tmp_path / "credential").write_text(CREDENTIAL)
    path = tmp_path / "usage.jsonl"
    path.write_bytes(b"".join(line(f"req-{number}") for number in range(5)))
    return path


def shipper(plane: ControlPlane, log) -> Shipper:
    return Shipper(Link(plane.upstream.url, log.with_name("credential")), "gw-1", log)


class TestRefusedRecords:
    async def test_one_is_set_aside_and_the_others_arrive(self, log):
        async with control_plane(table({})) as plane:
            plane.refuses = "req-3"

            assert await shipper(plane, log).ship_batch()

            assert set(plane.records) == {"req-0", "req-1", "req-2", "req-4"}
            assert log.with_name("usage.jsonl.refused").read_bytes() == line("req-3")

    async def test_none_is_sent_again_after_a_restart(self, log):
        async with control_plane(table({})) as plane:
            plane.refuses = "req-3"
            await shipper(plane, log).ship_batch()
            asked = len(plane.upstream.asked)

            assert not await shipper(plane, log).ship_batch()
            assert len(plane.upstream.asked) == asked

    async def test_their_file_is_bounded(self, log, monkeypatch):
        monkeypatch.setattr(ship, "REFUSED_BYTES", 10)
        async with control_plane(table({})) as plane:
            plane.refuses = "req-3"

            assert await shipper(plane, log).ship_batch()

            assert len(plane.records) == 4
            assert log.with_name("usage.jsonl.refused").read_bytes() == b""

    async def test_a_line_that_is_no_record_is_set_aside(self, log):
        with log.open("ab") as file:
            file.write(b"garbage\n" + line("req-5"))
        async with control_plane(table({})) as plane:
            assert await shipper(plane, log).ship_batch()

            assert len(plane.records) == 6
            assert log.with_name("usage.jsonl.refused").read_bytes() == b"garbage\n"

    async def test_a_refusal_that_names_no_record_keeps_them_all(self, log):
        async with control_plane(table({})) as plane:
            ours = shipper(plane, log)
            log.with_name("credential").write_text("another")
            wrong = shipper(plane, log)

            with pytest.raises(LinkError):
                await wrong.ship_batch()

            assert await ours.ship_batch()
            assert len(plane.records) == 5


async def test_usage_arrives_soon_after_the_control_plane_is_back(log):
    async with control_plane(table({})) as plane:
        port = plane.upstream.port
        ours = shipper(plane, log)
        await plane.upstream.stop()
        task = asyncio.create_task(ours.run())
        # Long enough for the pause to have grown to its longest.
        await asyncio.sleep(2.0)
        await plane.upstream.start(port=port)
        back_at = time.monotonic()

        await until(lambda: len(plane.records) == 5)

        assert time.monotonic() - back_at < 2.5
        task.cancel()
