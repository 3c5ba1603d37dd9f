"""The usage spool: a record per admitted request, whatever happens to the process or the disk."""

import asyncio
import json
import os
import threading

import pytest

from gateway.spool import GROWTH_SLOTS, Spool, SpoolError
from gateway.wire import Outcome, UsageRecord
from tests.gateway.harness import until


def record(number: int, outcome: Outcome = Outcome.GATEWAY_LOST, **fields) -> UsageRecord:
    return UsageRecord(id=f"req-{number}", admitted_at=1.0, outcome=outcome, **fields)


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def crash(spool: Spool) -> None:
    """Let go of the files as a killed process does: nothing more is written."""
    if spool._task is not None:
        spool._task.cancel()
    spool._map.close()
    os.close(spool._slots_fd)
    os.close(spool._log_fd)


class TestSpool:
    async def test_writes_each_ended_request_once(self, tmp_path):
        spool = Spool(tmp_path / "u.jsonl")
        spool.start()
        for number in range(1000):
            slot = spool.admit(record(number)) if spool.is_accepting else None
            spool.close(slot, record(number, Outcome.COMPLETED, output_tokens=number))
            if number % 100 == 0:
                await asyncio.sleep(0)
        await spool.stop()

        written = lines(tmp_path / "u.jsonl")
        assert [r["id"] for r in written] == [f"req-{n}" for n in range(1000)]
        assert {r["outcome"] for r in written} == {"completed"}

    async def test_closes_what_a_crash_left_open_as_lost(self, tmp_path):
        spool = Spool(tmp_path / "u.jsonl")
        spool.admit(record(1, key_id="k", model="m"))
        slot = spool.admit(record(2))
        spool.close(slot, record(2, Outcome.COMPLETED, output_tokens=7))
        await crash(spool)

        Spool(tmp_path / "u.jsonl")

        written = {r["id"]: r for r in lines(tmp_path / "u.jsonl")}
        assert written["req-1"]["outcome"] == "gateway_lost"
        assert written["req-1"]["key_id"] == "k"
        assert written["req-2"]["outcome"] == "completed"
        assert written["req-2"]["output_tokens"] == 7

    async def test_a_crash_between_log_and_slot_writes_nothing_twice(self, tmp_path):
        spool = Spool(tmp_path / "u.jsonl")
        slot = spool.admit(record(1))
        spool.close(slot, record(1, Outcome.COMPLETED))
        spool._append_ended(free=False)
        await crash(spool)

        await crash(Spool(tmp_path / "u.jsonl"))
        Spool(tmp_path / "u.jsonl")

        assert [r["id"] for r in lines(tmp_path / "u.jsonl")] == ["req-1"]

    async def test_half_a_line_at_the_end_is_cut_off(self, tmp_path):
        path = tmp_path / "u.jsonl"
        spool = Spool(path)
        spool.admit(record(1))
        await crash(spool)
        path.write_bytes(b'{"id":"req-0","admi')

        Spool(path)

        assert [r["id"] for r in lines(path)] == ["req-1"]

    async def test_grows_with_what_is_open(self, tmp_path):
        spool = Spool(tmp_path / "u.jsonl")
        for number in range(GROWTH_SLOTS + 1):
            assert spool.is_accepting
            spool.admit(record(number))
        await crash(spool)

        Spool(tmp_path / "u.jsonl")

        assert len(lines(tmp_path / "u.jsonl")) == GROWTH_SLOTS + 1

    async def test_cuts_long_words_and_never_numbers(self, tmp_path):
        spool = Spool(tmp_path / "u.jsonl")
        long = "ü" * 3000
        names = dict.fromkeys(("error", "model", "deployment", "replica", "key_id"), long)
        slot = spool.admit(record(1, **names))
        spool.close(slot, record(1, Outcome.FAILED, **names, bytes_out=2**60, prompt_tokens=2**40))
        await spool.stop()

        (written,) = lines(tmp_path / "u.jsonl")
        assert (written["bytes_out"], written["prompt_tokens"]) == (2**60, 2**40)

    async def test_refuses_while_the_disk_is_full_and_loses_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gateway.spool.RETRY_SECONDS", 0.01)
        real, is_full = os.write, True

        def write(descriptor: int, data: bytes) -> int:
            return real(descriptor, data[:40] if is_full else data)

        monkeypatch.setattr(os, "write", write)
        spool = Spool(tmp_path / "u.jsonl")
        spool.start()
        slot, still_open = spool.admit(record(1)), spool.admit(record(2))
        spool.close(slot, record(1, Outcome.COMPLETED))
        await until(lambda: not spool.is_accepting)
        spool.close(still_open, record(2, Outcome.COMPLETED))
        assert (tmp_path / "u.jsonl").read_bytes() == b""
        is_full = False
        await until(lambda: spool.is_accepting)
        await spool.stop()

        assert [r["id"] for r in lines(tmp_path / "u.jsonl")] == ["req-1", "req-2"]

    async def test_a_slow_disk_holds_up_no_request(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gateway.spool.FLUSH_SECONDS", 0.01)
        real, is_writing, may_go_on = os.write, threading.Event(), threading.Event()

        def write(descriptor: int, data: bytes) -> int:
            is_writing.set()
            assert may_go_on.wait(10)
            return real(descriptor, data)

        monkeypatch.setattr(os, "write", write)
        spool = Spool(tmp_path / "u.jsonl")
        spool.start()
        spool.close(spool.admit(record(1)), record(1, Outcome.COMPLETED))
        await until(is_writing.is_set)
        spool.close(spool.admit(record(2)), record(2, Outcome.COMPLETED))
        stopping = asyncio.create_task(spool.stop())
        await asyncio.sleep(0)
        may_go_on.set()
        await stopping

        assert [r["id"] for r in lines(tmp_path / "u.jsonl")] == ["req-1", "req-2"]

    async def test_is_held_by_one_process(self, tmp_path):
        spool = Spool(tmp_path / "u.jsonl")

        with pytest.raises(SpoolError, match="in use by another gateway"):
            Spool(tmp_path / "u.jsonl")
        await spool.stop()
