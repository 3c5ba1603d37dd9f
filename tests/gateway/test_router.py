"""The choice of a replica: prefixes, costs, the other policies, breaker and slow start."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.breaker import FAILURES_TO_OPEN, Breaker
from gateway.prefix import BLOCK_BYTES, PrefixIndex, chain, seed_of
from gateway.router import Ask, Candidate, choose, typical


def candidate(name: str, **numbers: int) -> Candidate:
    """A replica as a policy sees it."""
    found = Candidate(name, seed=random.Random(name).getrandbits(64))
    for field, number in numbers.items():
        setattr(found, field, number)
    return found


def ask(blocks=(), tokens: int = 1000, *, session: str = "", now: float = 100.0, **more) -> Ask:
    asked = Ask(
        blocks=list(blocks), prompt_tokens=tokens, block_tokens=128.0, session=session, now=now
    )
    for field, value in more.items():
        setattr(asked, field, value)
    return asked


def index(*places: Candidate, capacity: int = 100) -> PrefixIndex:
    prefixes = PrefixIndex()
    for place in places:
        prefixes.resize(place.id, capacity)
    return prefixes


def text(words: int, seed: int = 0) -> bytes:
    return " ".join(random.Random(seed).choices(["alpha", "beta", "gamma"], k=words)).encode()


class TestPrefixIndex:
    def test_a_longer_conversation_shares_the_blocks_of_a_shorter_one(self):
        short, long = text(1000), text(1000) + text(500, seed=1)

        shared = chain(short, 0), chain(long, 0)

        assert shared[1][: len(shared[0])] == shared[0]
        assert len(shared[1]) > len(shared[0])

    def test_one_byte_at_the_start_changes_every_block(self):
        prompt = text(1000)

        assert not set(chain(prompt, 0)) & set(chain(b"x" + prompt[1:], 0))

    def test_tenants_share_nothing(self):
        assert not set(chain(text(1000), seed_of(b"a"))) & set(chain(text(1000), seed_of(b"b")))

    def test_tells_how_deep_each_replica_matches(self):
        prefixes = index(candidate("a"), candidate("b"), candidate("c"))
        blocks = chain(text(2000), 0)
        prefixes.place("a", blocks)
        prefixes.place("b", blocks[:3])

        assert prefixes.match(blocks) == {"a": len(blocks), "b": 3}

    def test_forgets_the_ends_of_chains_before_their_beginnings(self):
        prefixes = index(candidate("a"), capacity=10)
        first, second = list(range(8)), list(range(100, 106))
        prefixes.place("a", first)
        prefixes.place("a", second)

        assert prefixes.match(second) == {"a": 6}
        assert prefixes.match(first) == {"a": 4}

    def test_a_replica_that_is_forgotten_leaves_nothing(self):
        prefixes = index(candidate("a"), candidate("b"))
        prefixes.place("a", [1, 2])
        prefixes.forget("a")
        prefixes.resize("c", 10)

        assert prefixes.match([1, 2]) == {}
        assert prefixes._holders == {}

    @given(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(1, 9)), max_size=30
        )
    )
    def test_agrees_with_a_plain_set_of_each_replicas_blocks(self, placed):
        prefixes = index(*map(candidate, "abc"), capacity=1000)
        held: dict[str, set[int]] = {name: set() for name in "abc"}
        for name, chain_number, length in placed:
            blocks = [chain_number * 100 + n for n in range(length)]
            prefixes.place(name, blocks)
            held[name] |= set(blocks)

        for chain_number in range(6):
            blocks = [chain_number * 100 + n for n in range(9)]
            expected = {}
            for name, own in held.items():
                depth = next((n for n, block in enumerate(blocks) if block not in own), 9)
                if depth:
                    expected[name] = depth
            assert prefixes.match(blocks) == expected


class TestPrefixPolicy:
    def test_prefers_the_replica_that_holds_the_prefix(self):
        a, b = candidate("a"), candidate("b")
        prefixes = index(a, b)
        prefixes.place("b", list(range(7)))

        choice = choose("prefix", [a, b], ask(range(7)), prefixes)

        assert choice.replica is b
        assert choice.uncached_tokens == 1000 - 7 * 128
        assert choice.reason.startswith("prefix; cached=896/1000")

    def test_leaves_it_when_the_wait_costs_more_than_the_prefill(self):
        a, b = candidate("a"), candidate("b", pending_tokens=5000)
        prefixes = index(a, b)
        prefixes.place("b", list(range(7)))

        assert choose("prefix", [a, b], ask(range(7)), prefixes).replica is a

    def test_weighs_the_requests_there_by_the_profile(self):
        quiet, busy = candidate("quiet", pending_tokens=900), candidate("busy", in_flight=20)
        places, prefixes = [quiet, busy], index(quiet, busy)

        fast = choose("prefix", places, ask(alpha=0.0), prefixes)
        steady = choose("prefix", places, ask(alpha=0.25), prefixes)

        assert (fast.replica, steady.replica) == (busy, quiet)

    def test_keeps_the_emptiest_replica_for_a_long_prompt(self):
        places = [candidate("emptiest", in_flight=2), candidate("next", in_flight=3)]

        def taken(tokens: int, **more: float) -> str:
            return choose("prefix", places, ask(tokens=tokens, **more), index()).replica.id

        assert taken(1000, typical_tokens=2000.0) == "next"
        assert taken(8000, typical_tokens=2000.0) == "emptiest"
        assert taken(1000) == "emptiest"
        assert taken(1000, typical_tokens=2000.0, alpha=0.0) in ("emptiest", "next")

    def test_keeps_none_free_while_little_is_under_way(self):
        places = [candidate("empty"), candidate("busy", in_flight=1)]

        choice = choose("prefix", places, ask(typical_tokens=1000.0), index())

        assert choice.replica.id == "empty"

    def test_spreads_requests_that_are_all_alike(self):
        places, usual = [candidate(name) for name in "abc"], 0.0
        for _ in range(300):
            choice = choose("prefix", places, ask(typical_tokens=usual), index())
            usual = typical(usual, choice.uncached_tokens)
            choice.replica.in_flight += 1

        assert max(place.in_flight for place in places) <= 103
        assert usual == pytest.approx(950, rel=0.05)

    def test_a_shared_system_prompt_does_not_gather_all_on_one(self):
        places = [candidate(name) for name in "abcd"]
        prefixes = index(*places, capacity=10_000)
        counts: Counter[str] = Counter()
        for number in range(400):
            blocks = [0, 1, *range(1000 + number * 10, 1005 + number * 10)]
            choice = choose("prefix", places, ask(blocks, tokens=7 * 128), prefixes)
            choice.replica.pending_tokens += choice.uncached_tokens
            prefixes.place(choice.replica.id, blocks)
            counts[choice.replica.id] += 1

        assert max(counts.values()) <= 1.1 * 400 / 4

    def test_counts_at_least_one_token_to_prefill(self):
        a, b = candidate("a"), candidate("b")
        prefixes = index(a, b)
        prefixes.place("a", list(range(20)))

        choice = choose("prefix", [a, b], ask(range(20), tokens=500), prefixes)

        assert choice.uncached_tokens == 1


class TestOtherPolicies:
    def test_least_in_flight(self):
        places = [candidate("a", in_flight=2), candidate("b", in_flight=1)]

        assert choose("least-in-flight", places, ask(), index(*places)).replica.id == "b"

    def test_power_of_two_never_takes_the_fullest(self):
        places = [candidate(name, in_flight=n) for n, name in enumerate("abc")]

        taken = {choose("power-of-two", places, ask(), index()).replica.id for _ in range(100)}

        assert taken == {"a", "b"}

    def test_round_robin(self):
        places = [candidate(name) for name in "abc"]

        taken = [choose("round-robin", places, ask(turn=n), index()).replica.id for n in range(4)]

        assert taken == ["a", "b", "c", "a"]

    def test_bounded_hash_keeps_a_prompt_in_place_until_it_is_full(self):
        places = [candidate(name) for name in "abcd"]
        blocks = list(range(50))
        home = choose("bounded-hash", places, ask(blocks), index()).replica
        again = {choose("bounded-hash", places, ask(blocks), index()).replica.id for _ in range(20)}
        home.in_flight = 10
        moved = choose("bounded-hash", places, ask(blocks), index()).replica

        assert again == {home.id}
        assert moved is not home

    def test_a_session_stays_and_moves_only_with_its_replica(self):
        places = [candidate(name) for name in "abcd"]
        homes = {
            f"s{n}": choose("prefix", places, ask(session=f"s{n}"), index()).replica.id
            for n in range(200)
        }
        fewer = [place for place in places if place.id != "d"]
        moved = [
            session
            for session, home in homes.items()
            if choose("prefix", fewer, ask(session=session), index()).replica.id != home
        ]

        assert {homes[session] for session in moved} == {"d"}
        assert len(set(homes.values())) == 4

    @pytest.mark.parametrize("policy", ["prefix", "least-in-flight", "round-robin"])
    def test_a_replica_in_slow_start_takes_a_share_only(self, policy):
        places = [candidate(name, in_flight=8, pending_tokens=8000) for name in "ab"]
        new = candidate("new", in_flight=3, pending_tokens=3000)
        new.breaker.start_slowly(95.0)

        early = {
            choose(policy, [*places, new], ask(now=100.0, turn=n), index()).replica.id
            for n in range(9)
        }
        later = choose(policy, [*places, new], ask(now=106.0, turn=2), index()).replica.id

        assert "new" not in early
        assert later == "new"


class TestBreaker:
    def test_opens_after_failures_in_a_row_and_closes_by_probe_alone(self):
        breaker = Breaker()
        for _ in range(FAILURES_TO_OPEN - 1):
            assert not breaker.failed(0.0, certain=False)
        breaker.answered()
        for _ in range(FAILURES_TO_OPEN - 1):
            assert not breaker.failed(0.0, certain=False)

        assert breaker.failed(0.0, certain=False)
        breaker.answered()
        assert breaker.is_open
        assert not breaker.probe_due(0.9)
        assert breaker.probe_due(1.0)
        assert breaker.probed(1.0, healthy=True)
        assert breaker.is_slow(10.9)
        assert not breaker.is_slow(11.0)

    def test_opens_at_once_when_the_replica_cannot_be_reached(self):
        assert Breaker().failed(0.0, certain=True)

    def test_asks_less_and_less_often(self):
        breaker = Breaker()
        breaker.failed(0.0, certain=True)
        gaps, now = [], 0.0
        for _ in range(8):
            gaps.append(breaker.probe_at - now)
            now = breaker.probe_at
            breaker.probed(now, healthy=False)

        assert gaps == [1, 2, 4, 8, 16, 30, 30, 30]


def test_blocks_are_whole():
    assert len(chain(b"x" * (2 * BLOCK_BYTES + 1), 0)) == 2
    assert chain(b"x" * (BLOCK_BYTES - 1), 0) == []
