"""How long one routing decision takes: hash the prompt, choose among 16 replicas, note the placing.

In process. Wall time is what has the target; the CPU time beside it tells how much of it was
another process's turn. Called by `bench.gateway.__main__`.
"""

import gc
import random
import time

from bench.main.figures import Result, quantile
from gateway.prefix import BLOCK_BYTES, PrefixIndex, chain, seed_of
from gateway.router import Ask, Candidate, choose

REPLICAS = 16
PROMPT_TOKENS = 12_000
BYTES_PER_TOKEN = 4
CONVERSATIONS = 200
DECISIONS = 5000
KV_CACHE_TOKENS = 200_000


def measure() -> Result:
    """Return the quantiles over prompts that share prefixes, with all indexes full."""
    result = Result(part="decision", question="how long does it take to choose a replica?")
    chance = random.Random(3)
    prompts = [_prompt(chance) for _ in range(CONVERSATIONS)]
    replicas = [Candidate(f"r{n}", seed=chance.getrandbits(64)) for n in range(REPLICAS)]
    prefixes = PrefixIndex()
    for replica in replicas:
        prefixes.resize(replica.id, KV_CACHE_TOKENS * BYTES_PER_TOKEN // BLOCK_BYTES)
    gc.collect()
    gc.freeze()
    times, cpu_times = [], []
    for number in range(DECISIONS + CONVERSATIONS):
        _load(replicas, chance)
        prompt = chance.choice(prompts)
        begin, cpu_begin = time.perf_counter(), time.thread_time()
        _decide(prompt, replicas, prefixes, number)
        cpu_times.append(time.thread_time() - cpu_begin)
        times.append(time.perf_counter() - begin)
    kept = times[CONVERSATIONS:]
    name = f"{PROMPT_TOKENS:,} tokens, {REPLICAS} replicas"
    result.add(f"{name}, p50", quantile(kept, 0.5) * 1e3, "ms")
    result.add(f"{name}, p99", quantile(kept, 0.99) * 1e3, "ms", at_most=0.5)
    cpu_p99 = quantile(cpu_times[CONVERSATIONS:], 0.99)
    result.add("  the same in CPU time, p99", cpu_p99 * 1e3, "ms")
    return result


def _decide(prompt: bytes, replicas: list[Candidate], prefixes: PrefixIndex, turn: int) -> None:
    blocks = chain(prompt, seed_of(b"tenant"))
    ask = Ask(
        blocks=blocks,
        block_tokens=BLOCK_BYTES / BYTES_PER_TOKEN,
        prompt_tokens=PROMPT_TOKENS,
        session="",
        now=0.0,
    )
    ask.turn, ask.typical_tokens = turn, PROMPT_TOKENS / 2
    choice = choose("prefix", replicas, ask, prefixes)
    prefixes.place(choice.replica.id, blocks)


def _load(replicas: list[Candidate], chance: random.Random) -> None:
    for replica in replicas:
        replica.pending_tokens = chance.randrange(50_000)
        replica.streams = chance.randrange(40)
        replica.in_flight = replica.streams + 2


def _prompt(chance: random.Random) -> bytes:
    """Return a prompt whose first quarter is shared by all."""
    size = PROMPT_TOKENS * BYTES_PER_TOKEN
    shared = b"All of you know this beginning. " * (size // 128)
    return (shared + chance.randbytes(size).hex().encode())[:size]
