"""Which hosts count as silent or lost: the pure decision."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from apps.fleet.silence import SeenHost, due_moves, is_frozen
from apps.fleet.states import HostState

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def seen(silent_seconds: float, state=HostState.READY, state_seconds: float = 3600.0) -> SeenHost:
    return SeenHost(
        id=uuid4(),
        name="gpu-1",
        state=state,
        state_at=ago(state_seconds),
        last_seen_at=ago(silent_seconds),
    )


def moves(*hosts: SeenHost) -> list[tuple[HostState, HostState]]:
    return [(move.old, move.new) for move in due_moves(hosts, NOW)]


class TestDueMoves:
    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            pytest.param(seen(39), [], id="39 s is no silence"),
            pytest.param(seen(40), [(HostState.READY, HostState.UNKNOWN)], id="40 s is"),
            pytest.param(seen(301, HostState.UNKNOWN, 261), [(HostState.UNKNOWN, HostState.LOST)],
                         id="lost after five minutes"),
            pytest.param(seen(299, HostState.UNKNOWN, 261), [], id="not lost before that"),
            pytest.param(seen(900, HostState.UNKNOWN, 5), [],
                         id="not lost while its silence was hardly watched"),
            pytest.param(seen(900, HostState.LOST), [], id="lost stays lost"),
        ],
    )  # fmt: skip
    def test_moves_one_host_by_its_silence(self, host, expected):
        assert moves(host) == expected

    def test_never_goes_from_ready_to_lost_in_one_sweep(self):
        assert moves(seen(9000)) == [(HostState.READY, HostState.UNKNOWN)]

    def test_tells_how_long_the_host_was_silent(self):
        [move] = due_moves([seen(47)], NOW)

        assert "47 s" in move.reason


class TestFreeze:
    def test_gives_up_nobody_when_half_of_the_hosts_fall_silent(self):
        silent = [seen(400, HostState.UNKNOWN, 360) for _ in range(2)]

        assert moves(*silent, seen(1), seen(1)) == []

    def test_gives_up_the_minority_that_fell_silent(self):
        silent = [seen(400, HostState.UNKNOWN, 360) for _ in range(2)]

        assert len(moves(*silent, seen(1), seen(1), seen(1))) == 2

    def test_still_says_that_the_silent_half_is_unknown(self):
        assert moves(seen(41), seen(41)) == [(HostState.READY, HostState.UNKNOWN)] * 2

    def test_does_not_protect_a_lone_host(self):
        assert moves(seen(400, HostState.UNKNOWN, 360)) == [(HostState.UNKNOWN, HostState.LOST)]

    def test_does_not_count_hosts_that_were_lost_before(self):
        lost = [seen(9000, HostState.LOST) for _ in range(5)]

        assert not is_frozen([*lost, seen(400, HostState.UNKNOWN, 360), seen(1), seen(1)], NOW)
