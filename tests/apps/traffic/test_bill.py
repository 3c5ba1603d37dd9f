"""Bills: seconds held by line, and the two bases."""

from decimal import Decimal

import pytest

from apps.deployments.states import ReplicaPhase as P
from apps.traffic.bill import Line, Reservation, Tokens, bill, held_seconds

LIFE = [(100.0, P.FETCHING), (120.0, P.STARTING), (150.0, P.READY), (250.0, P.STOPPED)]


class TestHeldSeconds:
    def test_counts_each_phase_until_the_next(self):
        assert held_seconds(LIFE, 0.0, 1000.0) == {Line.STARTING: 50.0, Line.IDLE: 100.0}

    def test_cuts_at_the_window(self):
        assert held_seconds(LIFE, 110.0, 160.0) == {Line.STARTING: 40.0, Line.IDLE: 10.0}

    def test_the_last_phase_goes_on(self):
        assert held_seconds(LIFE[:3], 200.0, 300.0) == {Line.IDLE: 100.0}

    def test_nothing_is_held_before_or_after_its_life(self):
        assert held_seconds(LIFE, 300.0, 400.0) == {}
        assert held_seconds(LIFE, 0.0, 100.0) == {}
        assert held_seconds([], 0.0, 100.0) == {}


class TestBill:
    def reservation(self, default=False):
        seconds = {Line.STARTING: 50.0, Line.IDLE: 100.0}
        return Reservation(seconds, Decimal("0.01"), default)

    def test_lines_add_up_to_the_allocation(self):
        answer = bill([self.reservation()], Tokens(requests=1, usd=Decimal("0.4")))

        assert answer.allocation.usd == Decimal("1.50")
        assert sum(answer.lines.values()) == answer.allocation.usd
        assert answer.lines[Line.SERVING] == Decimal("0.4")
        assert answer.lines[Line.IDLE] == Decimal("0.6")
        assert answer.usage.usd == Decimal("0.4")
        assert answer.utilization_ratio == pytest.approx(0.4 / 1.5)

    def test_counts_per_million_of_prompt_and_output_tokens(self):
        tokens = Tokens(requests=1, prompt=300_000, output=200_000, usd=Decimal("0.5"))

        answer = bill([self.reservation()], tokens)

        assert answer.allocation.usd_per_million_tokens == Decimal(3)
        assert answer.usage.usd_per_million_tokens == Decimal(1)

    def test_has_no_price_per_token_without_tokens(self):
        assert bill([self.reservation()], Tokens()).allocation.usd_per_million_tokens is None

    def test_never_serves_for_longer_than_it_was_ready(self):
        answer = bill([self.reservation()], Tokens(requests=1, usd=Decimal(9)))

        assert answer.lines[Line.SERVING] == Decimal(1)
        assert answer.lines[Line.IDLE] == 0

    def test_says_when_a_price_is_a_default(self):
        assert bill([self.reservation(default=True)], Tokens()).has_default_price
        assert not bill([self.reservation()], Tokens()).has_default_price
