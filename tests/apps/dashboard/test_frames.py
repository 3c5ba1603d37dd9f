"""Frames: one read a second for all pages, deltas of what changed, resume after a gap."""

import asyncio

import pytest

from apps.dashboard.frames import FIELDS, KEPT_FRAMES, Builder
from apps.telemetry.numbers import FleetNumbers, Flow, ReplicaNumbers


def numbers(at: float = 1.0, **in_flight: int) -> FleetNumbers:
    return FleetNumbers(
        at=at, deployments={name: Flow(in_flight=count) for name, count in in_flight.items()}
    )


def builder(*, interval_seconds: float = 0.01) -> tuple[Builder, list[int]]:
    """Return a builder whose numbers change with every read, and the list of its reads."""
    reads: list[int] = []

    async def read() -> FleetNumbers:
        reads.append(len(reads))
        return numbers(smol=len(reads))

    return Builder(read=read, interval_seconds=interval_seconds), reads


def in_flight(frame, name: str, topic: str = "deployments"):
    row = frame.message(topic)["deployments"][name]
    return row[FIELDS["deployments"].index("in_flight")]


class TestFrames:
    def test_a_new_page_gets_a_snapshot_with_the_fields(self):
        made, _ = builder()
        made.add(numbers(smol=3, other=1))

        frame = made.since("", 0)

        assert frame.message("deployments")["type"] == "snapshot"
        assert frame.message("deployments")["fields"] == FIELDS
        assert in_flight(frame, "smol") == 3

    def test_a_delta_holds_only_what_changed(self):
        made, _ = builder()
        made.add(numbers(smol=3, other=1))
        made.add(numbers(smol=4, other=1))

        message = made.since(made.epoch, 1).message("deployments")

        assert message["type"] == "delta"
        assert message["seq"] == 2
        assert list(message["deployments"]) == ["smol"]

    def test_a_page_at_rest_gets_no_rows(self):
        made, _ = builder()
        made.add(numbers(smol=3))
        made.add(numbers(smol=3))

        assert "deployments" not in made.since(made.epoch, 1).message("deployments")

    def test_what_is_gone_is_said(self):
        made, _ = builder()
        made.add(numbers(smol=3))
        made.add(numbers())

        assert made.since(made.epoch, 1).message("deployments")["deployments"] == {"smol": None}

    def test_a_slow_reader_gets_all_missed_changes_in_one_delta(self):
        made, _ = builder()
        for count in range(1, 6):
            made.add(numbers(smol=count, other=7))

        frame = made.since(made.epoch, 1)

        assert (frame.whole, frame.seq, in_flight(frame, "smol")) == (False, 5, 5)

    @pytest.mark.parametrize(
        ("epoch", "seq"), [("another", 3), ("same", 1)], ids=["restart", "too long away"]
    )
    def test_an_unknown_past_gets_a_snapshot(self, epoch, seq):
        made, _ = builder()
        for count in range(KEPT_FRAMES + 5):
            made.add(numbers(smol=count))

        assert made.since(made.epoch if epoch == "same" else epoch, seq).whole

    def test_a_deployments_page_gets_its_own_row_alone(self):
        made, _ = builder()
        made.add(numbers(smol=3, other=1))

        message = made.since("", 0).message("deployment:smol")

        assert list(message["deployments"]) == ["smol"]
        assert "fleet" not in message

    def test_a_deployments_page_gets_its_own_replicas_alone(self):
        made, _ = builder()
        made.add(FleetNumbers(at=1.0, replicas={"r1": ReplicaNumbers(), "r2": ReplicaNumbers()}))

        message = made.since("", 0).message("deployment:smol", {"r1"})

        assert list(message["replicas"]) == ["r1"]

    def test_the_fleets_replicas_stay_off_other_pages(self):
        made, _ = builder()
        made.add(FleetNumbers(at=1.0, replicas={"r1": ReplicaNumbers()}))

        assert "replicas" not in made.since("", 0).message("deployments")

    def test_numbers_of_an_absent_store_are_marked(self):
        made, _ = builder()
        made.add(FleetNumbers(at=1.0, stale=True))

        assert made.since("", 0).message("deployments")["stale"] is True


class TestReading:
    async def test_many_pages_cost_one_read(self):
        made, reads = builder(interval_seconds=30)

        async def page() -> int:
            async with made.watching():
                return (await made.next("", 0)).seq

        seqs = await asyncio.wait_for(asyncio.gather(*(page() for _ in range(50))), 5)

        assert set(seqs) == {1}
        assert len(reads) == 1

    async def test_nothing_is_read_while_no_page_is_open(self):
        made, reads = builder()
        async with made.watching():
            await asyncio.wait_for(made.next("", 0), 5)
        before = len(reads)
        waiting = asyncio.create_task(made.next(made.epoch, made.seq))

        done, _ = await asyncio.wait([waiting], timeout=0.1)

        waiting.cancel()
        assert not done
        assert len(reads) == before

    async def test_a_failed_read_is_tried_again(self, caplog):
        answers = [ValueError("broken reading"), numbers(smol=1)]

        async def read() -> FleetNumbers:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        made = Builder(read=read, interval_seconds=0.01)
        async with made.watching():
            frame = await asyncio.wait_for(made.next("", 0), 5)

        assert frame.seq == 1
        assert "broken reading" in caplog.text
