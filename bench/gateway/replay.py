"""Replays a real trace on simulated replicas in virtual time, routed by the gateway's own code.

The engines are `agents.simulator.core`, the choice is `gateway.router.choose` over
`gateway.prefix.PrefixIndex`, so what is compared is policies and nothing else: every policy sees
the same requests on the same engines. Several gateways each keep books of their own and hear of
the others' moves `NEWS_SECONDS` late, as `gateway.peers` batches them. Called by
`bench.gateway.__main__`.
"""

import json
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.simulator.core import Core, Limits, Timing
from agents.simulator.runs import Run
from bench.main.figures import Result, quantile
from gateway.peers import BATCH_SECONDS
from gateway.prefix import PrefixIndex
from gateway.router import ALPHAS, Ask, Candidate, choose, typical

BLOCK_TOKENS = 512
BUCKET_SECONDS = 3.0
"""The trace's clock ticks so: requests of one tick are spread evenly over it."""

REPLICAS = 6
NEWS_SECONDS = BATCH_SECONDS + 0.001

LIMITS = Limits(
    kv_cache_tokens=307_200, block_tokens=BLOCK_TOKENS, host_cache_tokens=3_000_000,
    max_num_seqs=256,
)  # fmt: skip
TIMING = Timing(
    prefill_tokens_per_second=20_480,
    # A 32B model in 16 bits on two H100: 65 GB of weights, and about 3 GB of KV cache for each
    # stream of 12,000 tokens, are read for every token. Fitted so that the baselines' E2E are
    # within 2 % of the known ones (round robin 12.1 s, least in flight 10.2, bounded hashing 9.5).
    decode_seconds_per_token=0.013,
    decode_slowdown_per_stream=0.06,
    attention_tokens=50_000,
)
HELD_BLOCKS = (LIMITS.kv_cache_tokens + LIMITS.host_cache_tokens) // BLOCK_TOKENS
"""What a replica can give back without computing it: device and host memory."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the trace."""

    at: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Setup:
    """How requests are routed in one replay."""

    name: str
    policy: str = "prefix"
    profile: str = "balanced"
    gateways: int = 1
    shares: bool = True
    """Gateways tell each other what they do."""
    known_ratio: float = 1.0
    """Size of a prefix index beside what its replica really holds."""


SETUPS = (
    Setup("prefix"),
    Setup("prefix, 4 gateways", gateways=4),
    Setup("prefix, 4 gateways that share nothing", gateways=4, shares=False),
    Setup("prefix, latency", profile="latency"),
    Setup("prefix, throughput", profile="throughput"),
    Setup("prefix, index of half the size", known_ratio=0.5),
    Setup("prefix, index of a tenth (device memory alone)", known_ratio=0.093),
    Setup("bounded hashing", "bounded-hash"),
    Setup("power of two", "power-of-two"),
    Setup("least in flight", "least-in-flight"),
    Setup("round robin", "round-robin"),
)


@dataclass(frozen=True, slots=True)
class Scores:
    """How one policy did."""

    ttft_seconds: float
    ttft_p99_seconds: float
    e2e_seconds: float
    hit_ratio: float


class _Gateway:
    """The books of one gateway process."""

    def __init__(self, seeds: list[int], known_ratio: float) -> None:
        self.replicas = [Candidate(f"r{n}", seed=seed) for n, seed in enumerate(seeds)]
        self.prefixes = PrefixIndex()
        self.typical_tokens = 0.0
        for replica in self.replicas:
            self.prefixes.resize(replica.id, int(HELD_BLOCKS * known_ratio))

    def began(self, place: int, tokens: int, blocks: tuple[int, ...]) -> None:
        replica = self.replicas[place]
        replica.in_flight += 1
        replica.pending_tokens += tokens
        self.prefixes.place(replica.id, list(blocks))

    def first_token(self, place: int, tokens: int) -> None:
        self.replicas[place].pending_tokens -= tokens
        self.replicas[place].streams += 1

    def ended(self, place: int) -> None:
        self.replicas[place].in_flight -= 1
        self.replicas[place].streams -= 1


type _Move = Callable[[_Gateway], None]


@dataclass(slots=True)
class _Sent:
    """One request under way."""

    run: Run
    gateway: int
    place: int
    uncached_tokens: int


class _Replay:
    def __init__(self, setup: Setup) -> None:
        chance = random.Random(7)
        seeds = [chance.getrandbits(64) for _ in range(REPLICAS)]
        self._setup = setup
        self._alpha = ALPHAS[setup.profile]
        self._engines = [Core(LIMITS, TIMING, joins_steps=True) for _ in range(REPLICAS)]
        self._gateways = [_Gateway(seeds, setup.known_ratio) for _ in range(setup.gateways)]
        self._news: deque[tuple[float, int, _Move]] = deque()
        self._waiting: list[_Sent] = []
        self._streaming: list[_Sent] = []
        self._count = 0
        self.runs: list[Run] = []

    def arrive(self, arrival: Arrival) -> None:
        """Route one request at its time."""
        self._advance(arrival.at)
        number = self._count % len(self._gateways)
        ask = Ask(
            blocks=list(arrival.blocks),
            block_tokens=BLOCK_TOKENS,
            prompt_tokens=arrival.prompt_tokens,
            session="",
            now=arrival.at,
        )
        ask.turn, ask.alpha = self._count // len(self._gateways), self._alpha
        self._count += 1
        gateway = self._gateways[number]
        ask.typical_tokens = gateway.typical_tokens
        choice = choose(self._setup.policy, gateway.replicas, ask, gateway.prefixes)
        place, tokens = int(choice.replica.id[1:]), choice.uncached_tokens
        gateway.typical_tokens = typical(gateway.typical_tokens, tokens)
        run = Run(
            prompt_tokens=arrival.prompt_tokens,
            output_tokens=arrival.output_tokens,
            blocks=arrival.blocks,
        )
        self._engines[place].submit(run, arrival.at)
        self.runs.append(run)
        self._waiting.append(_Sent(run, number, place, tokens))
        self._tell(arrival.at, number, lambda g: g.began(place, tokens, arrival.blocks))

    def finish(self) -> None:
        """Let all engines run dry."""
        for engine in self._engines:
            for _ in engine.advance(float("inf")):
                pass

    def _advance(self, now: float) -> None:
        for engine in self._engines:
            for _ in engine.advance(now):
                pass
        self._note_first_tokens()
        self._note_ends()
        while self._news and self._news[0][0] <= now:
            _, teller, move = self._news.popleft()
            for number, gateway in enumerate(self._gateways):
                if number != teller:
                    move(gateway)

    def _note_first_tokens(self) -> None:
        begun = [sent for sent in self._waiting if sent.run.first_token_at is not None]
        if not begun:
            return
        self._waiting = [sent for sent in self._waiting if sent.run.first_token_at is None]
        self._streaming += begun
        for sent in begun:
            place, tokens = sent.place, sent.uncached_tokens
            at = sent.run.first_token_at or 0.0
            self._tell(at, sent.gateway, lambda g, p=place, t=tokens: g.first_token(p, t))

    def _note_ends(self) -> None:
        ended = [sent for sent in self._streaming if sent.run.finished_at is not None]
        if not ended:
            return
        self._streaming = [sent for sent in self._streaming if sent.run.finished_at is None]
        for sent in ended:
            at = sent.run.finished_at or 0.0
            self._tell(at, sent.gateway, lambda g, p=sent.place: g.ended(p))

    def _tell(self, at: float, teller: int, move: _Move) -> None:
        move(self._gateways[teller])
        if self._setup.shares and len(self._gateways) > 1:
            self._news.append((at + NEWS_SECONDS, teller, move))


def replay(trace: list[Arrival], setup: Setup) -> Scores:
    """Return how `setup` does on `trace`."""
    random.seed(1)
    run = _Replay(setup)
    for arrival in trace:
        run.arrive(arrival)
    run.finish()
    ttft = [(r.first_token_at or 0.0) - r.arrived_at for r in run.runs]
    e2e = [(r.finished_at or 0.0) - r.arrived_at for r in run.runs]
    prompt_tokens = sum(r.prompt_tokens for r in run.runs)
    return Scores(
        ttft_seconds=statistics.fmean(ttft),
        ttft_p99_seconds=quantile(ttft, 0.99),
        e2e_seconds=statistics.fmean(e2e),
        hit_ratio=sum(r.cached_tokens for r in run.runs) / prompt_tokens,
    )


def load(path: Path) -> list[Arrival]:
    """Return the requests in `path`. Raises OSError."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Arrival(
            at=at,
            prompt_tokens=row["input_length"],
            output_tokens=max(1, row["output_length"]),
            blocks=tuple(row["hash_ids"][: row["input_length"] // BLOCK_TOKENS]),
        )
        for at, row in _spread(rows)
    ]


def _spread(rows: list[dict[str, int]]) -> Iterator[tuple[float, dict[str, list[int]]]]:
    """Yield each row with its time, rows of one tick evenly apart."""
    ticks: dict[int, list[dict]] = {}
    for row in rows:
        ticks.setdefault(row["timestamp"], []).append(row)
    for tick, group in sorted(ticks.items()):
        for number, row in enumerate(group):
            yield tick / 1000 + number * BUCKET_SECONDS / len(group), row


def measure(path: Path) -> Result:
    """Replay the trace under every policy."""
    question = f"what does the choice of replica bring, on {REPLICAS} simulated replicas?"
    result = Result(part="replay", question=question)
    if not path.exists():
        print(f"replay: no trace at {path}; give --trace FILE. Not measured.")
        return result
    trace = load(path)
    result.table.append(("routed by", "TTFT s", "TTFT p99 s", "E2E s", "hit ratio"))
    found: dict[str, Scores] = {}
    for setup in SETUPS:
        scores = found[setup.name] = replay(trace, setup)
        values = (scores.ttft_seconds, scores.ttft_p99_seconds, scores.e2e_seconds)
        row = (*(f"{value:.2f}" for value in values), f"{scores.hit_ratio:.3f}")
        result.table.append((setup.name, *row))
    middle = trace[len(trace) // 2].at
    for name, part in (
        ("first", [arrival for arrival in trace if arrival.at < middle]),
        ("second", [arrival for arrival in trace if arrival.at >= middle]),
    ):
        scores = replay(part, SETUPS[0])
        result.add(f"prefix, {name} half alone: mean E2E", scores.e2e_seconds, "s")
    ours, four = found["prefix"], found["prefix, 4 gateways"]
    result.add("prefix: mean TTFT", ours.ttft_seconds, "s", at_most=0.65)
    result.add("prefix: mean E2E", ours.e2e_seconds, "s", at_most=8.1)
    result.add("prefix: tokens not from the cache", 1 - ours.hit_ratio, "", at_most=1 - 0.31)
    apart = max(
        four.ttft_seconds / ours.ttft_seconds - 1, four.e2e_seconds / ours.e2e_seconds - 1, 0.0
    )
    result.add("four gateways: worse than one by", apart * 100, "%", at_most=5)
    return result
