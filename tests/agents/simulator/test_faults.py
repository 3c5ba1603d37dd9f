"""Fault words."""

import pytest

from agents.simulator.faults import Fault, FaultKind, parse_fault


def test_a_crash_hits_the_request_after_the_given_number():
    fault = parse_fault("crash_after_requests:2")

    assert [fault.strikes(earlier) for earlier in range(4)] == [False, False, True, True]


def test_a_cut_hits_one_request_only():
    fault = parse_fault("cut_after_requests:1")

    assert [fault.strikes(earlier) for earlier in range(4)] == [False, True, False, False]


def test_exit_at_start_takes_a_code_and_exits_with_1_by_default():
    assert parse_fault("exit_at_start") == Fault(FaultKind.EXIT_AT_START, 1)
    assert parse_fault("exit_at_start:137") == Fault(FaultKind.EXIT_AT_START, 137)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("explode", "unknown fault 'explode'; known: exit_at_start"),
        ("crash_after_requests", "needs a number of requests, as in crash_after_requests:3"),
        ("crash_after_requests:soon", "not a whole number"),
        ("hang_at_start:3", "takes no number"),
    ],
    ids=["unknown", "no-number", "no-digits", "needless-number"],
)
def test_a_bad_fault_is_refused_with_the_way_to_say_it(text, says):
    with pytest.raises(ValueError, match=says):
        parse_fault(text)
