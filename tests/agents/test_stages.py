"""Stage times and new log lines."""

from agents.engines.base import StageMark
from agents.stages import LogFollower, StageClock


class TestStageClock:
    def test_ends_a_stage_when_the_next_begins(self) -> None:
        clock = StageClock()
        clock.begin("import", 10.0)
        clock.mark(StageMark(stage="load"), 14.0)
        clock.end(16.5)

        assert clock.seconds == {"import": 4.0, "load": 2.5}

    def test_believes_a_line_that_measured_over_its_own_clock(self) -> None:
        clock = StageClock()
        clock.begin("load", 10.0)
        clock.mark(StageMark(stage="load", seconds=3.2), 20.0)
        clock.end(30.0)

        assert clock.seconds == {"load": 3.2}

    def test_adds_up_a_stage_that_comes_twice(self) -> None:
        clock = StageClock({"weights": 5.0})
        clock.begin("weights", 0.0)
        clock.end(2.0)

        assert clock.seconds == {"weights": 7.0}

    def test_goes_on_with_a_stage_that_is_named_again(self) -> None:
        clock = StageClock()
        clock.begin("load", 0.0)
        clock.begin("load", 5.0)
        clock.end(6.0)

        assert clock.seconds == {"load": 6.0}


class TestLogFollower:
    def test_yields_each_line_once(self) -> None:
        follower = LogFollower()

        assert follower.new_lines(["a", "b"]) == ["a", "b"]
        assert follower.new_lines(["a", "b", "c"]) == ["c"]
        assert follower.new_lines(["a", "b", "c"]) == []

    def test_follows_a_tail_that_moved_on(self) -> None:
        follower = LogFollower()
        follower.new_lines(["a", "b", "c"])

        assert follower.new_lines(["b", "c", "d", "e"]) == ["d", "e"]

    def test_takes_all_as_new_after_a_gap(self) -> None:
        follower = LogFollower()
        follower.new_lines(["a", "b"])

        assert follower.new_lines(["x", "y"]) == ["x", "y"]
