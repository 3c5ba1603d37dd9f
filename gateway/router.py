"""Which replica takes a request: the policies. Pure; called by `gateway.exchange`.

The prefix policy charges each replica what the request would cost there, in prefilled tokens:

    cost = 0.5 * waiting prefill + (1 + alpha * requests there) * own uncached prefill
           * (1 + (cached + uncached / 2) / 50,000)            # attention grows with the context
         + alpha * usual prefill, on the replica that a long prompt would take

The replica's prefill rate cancels out, so nothing needs calibrating. What waits counts half: some
of it is done already, and the own prefill costs twice, since what it stores takes the room of what
others would find cached. alpha is the weight of the requests that a prefill holds up, streams and
those that have yet to stream: 0 gives the shortest time to first token. The last term looks one
request ahead: what comes next and finds its prefix nowhere goes to the emptiest replica, and would
hold up whoever went there before it. So short requests keep a little closer together, and a long
prompt finds a replica with few streams. Evidence in docs/gateway.md, Routing.
"""

import random
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, cast

from gateway.breaker import Breaker
from gateway.prefix import Block, PrefixIndex

WAITING_WEIGHT: Final = 0.5
ATTENTION_TOKENS: Final = 50_000.0
LONG_PROMPTS: Final = 4.0
"""What a long prompt has to prefill, in usual ones; 3 to 6 do the same in the replay."""

_LEARNING_RATE: Final = 0.01
BALANCED_ALPHA: Final = 0.3
ALPHAS = {"latency": 0.0, "balanced": BALANCED_ALPHA, "throughput": 0.5}
BOUNDED_LOAD_FACTOR = 1.25
SLOW_START_RATIO = 0.25
"""Share of the mean load that a replica in slow start may hold."""

_SECOND_BLOCK = 8
"""Prefix blocks to look past when hashing a prompt: what all prompts share (a system prompt, a
template) would send every request to one replica."""


class Candidate:
    """What a policy looks at in a replica; loads include what other gateways sent."""

    def __init__(self, name: str, *, seed: int = 0, in_flight: int = 0) -> None:
        self.id = name
        self.seed = seed
        """Of its place in consistent hashing; depends on the id alone."""
        self.in_flight = in_flight
        self.pending_tokens = 0
        """Uncached prompt tokens of requests that have no first token yet."""
        self.streams = 0
        """Requests past their first token."""
        self.breaker = Breaker()


class Ask:
    """What a policy needs to know of the request."""

    def __init__(
        self,
        *,
        blocks: list[Block],
        block_tokens: float,
        prompt_tokens: int,
        session: str,
        now: float,
    ) -> None:
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.prompt_tokens = prompt_tokens
        self.session = session
        self.now = now
        self.turn = 0
        """How many requests the deployment had before: for round robin."""
        self.alpha = BALANCED_ALPHA
        self.typical_tokens = 0.0
        """What requests had to prefill lately (`typical`); 0 as long as none came."""


class Choice[C: Candidate]:
    """The replica, why, and how much of the prompt it must still prefill."""

    def __init__(self, replica: C, reason: str, uncached_tokens: int) -> None:
        self.replica = replica
        self.reason = reason
        self.uncached_tokens = uncached_tokens


def typical(before: float, uncached_tokens: int) -> float:
    """Return what requests have to prefill, a mean over about the last hundred, after one more."""
    return before + _LEARNING_RATE * (float(uncached_tokens) - before)


type Policy = Callable[[list[Candidate], Ask, dict[str, float]], tuple[Candidate, str]]


def choose[C: Candidate](
    policy: str, candidates: list[C], ask: Ask, prefixes: PrefixIndex
) -> Choice[C]:
    """Return the replica for `ask`. `candidates` are those with a free slot, at least one."""
    depths: dict[str, float] = prefixes.match(ask.blocks) if ask.blocks else {}
    if len(candidates) == 1:
        return _result(candidates[0], "only", ask, depths)
    able = _not_ramping(cast("list[Candidate]", candidates), ask.now)
    if ask.session:
        replica, name = _by_hash(able, ask, depths)
        return _result(cast(C, replica), f"session {name}", ask, depths)
    if policy == "prefix":
        return _result(cast(C, _cheapest(able, ask, depths)), policy, ask, depths)
    replica, name = POLICIES[policy](able, ask, depths)
    return _result(cast(C, replica), name, ask, depths)


def _result[C: Candidate](replica: C, reason: str, ask: Ask, depths: dict[str, float]) -> Choice[C]:
    # Tokens that need no prefill; the engine always computes the last one.
    cached = min(int(depths.get(replica.id, 0.0) * ask.block_tokens), ask.prompt_tokens - 1)
    if cached < 0:
        cached = 0
    return Choice(
        replica,
        f"{reason}; cached={cached}/{ask.prompt_tokens}"
        f" pending={replica.pending_tokens} in_flight={replica.in_flight}",
        ask.prompt_tokens - cached,
    )


def _not_ramping(candidates: list[Candidate], now: float) -> list[Candidate]:
    """Leave out replicas in slow start that already hold their share."""
    settled = [c for c in candidates if not c.breaker.is_slow(now)]
    if not settled or len(settled) == len(candidates):
        return candidates
    mean_pending = sum([c.pending_tokens for c in settled]) / len(settled)
    mean_in_flight = sum([c.in_flight for c in settled]) / len(settled)
    return settled + [
        c
        for c in candidates
        if c.breaker.is_slow(now)
        and c.pending_tokens <= SLOW_START_RATIO * mean_pending
        and c.in_flight <= SLOW_START_RATIO * mean_in_flight
    ]


def _by_prefix(
    candidates: list[Candidate], ask: Ask, depths: dict[str, float]
) -> tuple[Candidate, str]:
    return _cheapest(candidates, ask, depths), "prefix"


def _cheapest(candidates: list[Candidate], ask: Ask, depths: dict[str, float]) -> Candidate:
    prompt, block_tokens, alpha = float(ask.prompt_tokens), ask.block_tokens, ask.alpha
    long = alpha * LONG_PROMPTS * ask.typical_tokens
    emptiest, charge = _next_long_prompt(candidates, long, ask)
    best, ties = 1e300, [candidates[0]]
    for replica in candidates:
        cached = depths.get(replica.id, 0.0) * block_tokens
        uncached = prompt - cached
        if uncached < 1.0:
            uncached = 1.0
        own = uncached * (1.0 + (cached + uncached / 2.0) / ATTENTION_TOKENS)
        waiting, requests = WAITING_WEIGHT * float(replica.pending_tokens), float(replica.in_flight)
        cost = waiting + (1.0 + alpha * requests) * own
        if waiting + requests * long <= emptiest:
            cost += charge
        if cost < best:
            best, ties = cost, [replica]
        elif cost == best:
            ties.append(replica)
    return ties[0] if len(ties) == 1 else random.choice(ties)


def _next_long_prompt(candidates: list[Candidate], long: float, ask: Ask) -> tuple[float, float]:
    """Return up to which load a replica is the emptiest for a long prompt, and what that costs.

    Who goes there is held up by the next prefill with the probability that one comes while it is
    there: with N requests in flight about N / (1 + N), as N of them come in a request's time.
    """
    least, in_flight = 1e300, 0.0
    for replica in candidates:
        requests = float(replica.in_flight)
        in_flight += requests
        load = WAITING_WEIGHT * float(replica.pending_tokens) + requests * long
        if load < least:
            least = load
    # A token more is the same.
    return least + 1.0, ask.alpha * ask.typical_tokens * in_flight / (1.0 + in_flight)


def _by_fewest(
    candidates: list[Candidate], _ask: Ask, _depths: dict[str, float]
) -> tuple[Candidate, str]:
    fewest = min(c.in_flight for c in candidates)
    return random.choice([c for c in candidates if c.in_flight == fewest]), "least-in-flight"


def _by_two(
    candidates: list[Candidate], _ask: Ask, _depths: dict[str, float]
) -> tuple[Candidate, str]:
    first, second = random.sample(candidates, 2)
    return (first if first.in_flight <= second.in_flight else second), "power-of-two"


def _by_turn(
    candidates: list[Candidate], ask: Ask, _depths: dict[str, float]
) -> tuple[Candidate, str]:
    return candidates[ask.turn % len(candidates)], "round-robin"


def _by_hash(
    candidates: list[Candidate], ask: Ask, _depths: dict[str, float]
) -> tuple[Candidate, str]:
    """Highest random weight with bounded load.

    Every gateway process comes to the same answer without talking to the others, and a replica
    that comes or goes moves only its own share.
    """
    key = _hash_key(ask)
    bound = (sum([c.in_flight for c in candidates]) + 1) / len(candidates) * BOUNDED_LOAD_FACTOR
    ranked = sorted(candidates, key=lambda c: _mix(key ^ c.seed), reverse=True)
    for place, replica in enumerate(ranked):
        if replica.in_flight + 1 <= bound:
            return replica, "hash" if place == 0 else f"hash+{place}"
    return ranked[0], "hash"


def _hash_key(ask: Ask) -> int:
    if ask.session:
        return int.from_bytes(blake2b(ask.session.encode(), digest_size=8).digest())
    if not ask.blocks:
        return random.getrandbits(64)
    return _mix(ask.blocks[min(_SECOND_BLOCK, len(ask.blocks)) - 1])


def _mix(value: int) -> int:
    """Scramble 64 bits (the finalizer of splitmix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)


POLICIES: dict[str, Policy] = {
    "prefix": _by_prefix,
    "least-in-flight": _by_fewest,
    "power-of-two": _by_two,
    "round-robin": _by_turn,
    "bounded-hash": _by_hash,
}
