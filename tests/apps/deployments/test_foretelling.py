"""What is said of a change before it is ordered."""

import pytest

from apps.deployments.foretelling import foretell
from apps.deployments.rollout_policy import parse


@pytest.mark.parametrize(
    ("policy", "serving", "has_room", "in_place", "words"),
    [
        ({}, 2, True, False, "at most 3 replicas at once, at least 2 serve"),
        ({}, 1, False, True, "it drains first"),
        ({}, 3, False, True, "one of 3 replicas drains before its successor starts; 2 serve"),
        ({"strategy": "recreate"}, 2, False, False, "then new ones start"),
        ({"strategy": "canary"}, 20, True, False, "2 more, with 10% of the requests"),
        ({"strategy": "canary"}, 2, False, False, "given up after 1800 s"),
        ({"strategy": "blue_green"}, 2, True, False, "2 more start, then all requests move"),
    ],
)
def test_says_the_steps_and_whether_in_place(policy, serving, has_room, in_place, words):
    found = foretell(parse(policy), serving=serving, has_room=has_room)

    assert found is not None
    assert found.in_place is in_place
    assert words in found.says


def test_has_nothing_to_say_where_nothing_serves():
    assert foretell(parse({}), serving=0, has_room=True) is None
