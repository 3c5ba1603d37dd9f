"""The scheduler and the clock of a simulated engine, without I/O.

It decides when each request gets each token. As in vLLM's engine, time passes in steps: a step
gives every decoding request one token and spends what is left of its token budget on prompts, in
order of arrival; new requests join while `max_num_seqs` and the KV cache allow. Assumptions: a
step lasts as long as its prompt part (tokens over a rate, more for long contexts) plus one decode
step, stretched for every further stream; a request that finds no free block pushes the youngest
one back to the queue, which then computes its tokens again.

It never reads a clock: callers pass `now`, call `advance` at or after `next_at`, and call it
before anything else when `next_at` has come. `engine` runs it in real time; benchmarks run many
of them in virtual time.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from agents.simulator.blocks import BlockPool
from agents.simulator.runs import Outcome, Run


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How fast the simulated engine is."""

    prefill_tokens_per_second: float = 8000.0
    decode_seconds_per_token: float = 0.02
    decode_slowdown_per_stream: float = 0.02
    """Each further decoding stream stretches a step by this ratio."""
    attention_tokens: float = 0.0
    """Context at which a prompt token costs twice as much; 0 leaves the cost flat."""
    host_tokens_per_second: float = 200_000.0
    """Rate at which blocks come back from host memory."""

    def prefill_seconds(self, tokens: int, context: int) -> float:
        """Return the time for `tokens` prompt tokens after `context` others."""
        flat = tokens / self.prefill_tokens_per_second
        if not self.attention_tokens:
            return flat
        return flat * (1 + (context + tokens / 2) / self.attention_tokens)

    def decode_seconds(self, streams: int) -> float:
        """Return the time of one token for each of `streams` requests."""
        if not streams:
            return 0.0
        stretch = 1 + self.decode_slowdown_per_stream * (streams - 1)
        return self.decode_seconds_per_token * stretch


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the simulated engine holds at once."""

    max_num_seqs: int = 64
    max_num_batched_tokens: int = 8192
    kv_cache_tokens: int = 100_000
    block_tokens: int = 16
    host_cache_tokens: int = 0
    """Second cache tier in host memory; 0 for none."""

    @property
    def device_blocks(self) -> int:
        return self.kv_cache_tokens // self.block_tokens

    @property
    def host_blocks(self) -> int:
        return self.host_cache_tokens // self.block_tokens


@dataclass(frozen=True, slots=True)
class Step:
    """What one engine step gave at time `at`: a token for each run in `runs`."""

    at: float
    started_at: float
    runs: list[Run]
    prefill_tokens: int


class Core:
    """One simulated engine."""

    def __init__(self, limits: Limits, timing: Timing, *, joins_steps: bool = False) -> None:
        """`joins_steps`: take steps that only decode many at once, up to the next one that changes
        anything. Times of first tokens and ends stay exact; it is for virtual time, where nobody
        wants each token: a `Step` then stands for several, and `Run.produced` tells how many.
        """
        self.limits = limits
        self.timing = timing
        self.pool = BlockPool(device_blocks=limits.device_blocks, host_blocks=limits.host_blocks)
        self.preemptions = 0
        self.next_at: float | None = None
        """When the step under way ends; None while nothing runs."""
        self.is_paused = False
        self._joins_steps = joins_steps
        self._joined = 1
        self._started_at = 0.0
        self._budget = 0
        self._waiting: deque[Run] = deque()
        self._prefilling: list[Run] = []
        self._decoding: list[Run] = []
        self._short_of_block: list[Run] = []
        self._in_step: list[Run] = []
        self._chunks: list[tuple[Run, int]] = []

    @property
    def running(self) -> int:
        """Requests in the batch; a paused engine shows none, as vLLM does."""
        return 0 if self.is_paused else len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        return 0 if self.is_paused else len(self._waiting)

    @property
    def in_flight(self) -> int:
        """All requests that are not finished, visible or not."""
        return len(self._waiting) + len(self._prefilling) + len(self._decoding)

    def submit(self, run: Run, now: float) -> None:
        """Queue `run`. Raises ValueError if it can never fit into the KV cache."""
        need = -(-(run.prompt_tokens + run.output_tokens) // self.limits.block_tokens)
        if need > self.limits.device_blocks:
            raise ValueError(f"it needs {need} blocks, the cache has {self.limits.device_blocks}")
        self._cut_short(now)
        run.arrived_at = now
        self._waiting.append(run)
        if self.next_at is None:
            self._begin_step(now)

    def abort(self, run: Run, now: float) -> None:
        """End `run` at once; fine if it has ended already."""
        if run.outcome is not None:
            return
        self._cut_short(now)
        for group in (self._prefilling, self._decoding, self._waiting, self._short_of_block):
            if run in group:
                group.remove(run)
        self._finish(run, Outcome.ABORT, now)

    def advance(self, now: float) -> Iterator[Step]:
        """Yield every step that has ended by `now`, and start the next ones."""
        while self.next_at is not None and self.next_at <= now:
            step = self._end_step(self.next_at)
            self._begin_step(step.at)
            yield step

    def pause(self) -> None:
        """Freeze: what runs goes back to the queue, and cached blocks are forgotten."""
        for run in reversed(self._decoding + self._prefilling):
            self._push_back(run)
        self.is_paused = True
        self.next_at = None
        self.pool.forget()

    def resume(self, now: float) -> None:
        """Go on after `pause`; frozen requests first."""
        self.is_paused = False
        if self.next_at is None:
            self._begin_step(now)

    # --- Start of a step ---------------------------------------------------------------------

    def _begin_step(self, now: float) -> None:
        self.next_at = None
        if self.is_paused:
            return
        self._give_blocks()
        self._in_step = list(self._decoding)
        self._chunks = []
        self._budget = self.limits.max_num_batched_tokens - len(self._in_step)
        seconds = self.timing.decode_seconds(len(self._in_step))
        seconds += sum([self._plan_chunk(run) for run in self._prefilling])
        seconds += self._admit(now)
        if self._in_step or self._chunks:
            self._joined = self._steps_to_join()
            self._started_at = now
            self.next_at = now + seconds * self._joined

    def _steps_to_join(self) -> int:
        """Return how many steps are alike from here on: until a run ends or needs a block."""
        if not self._joins_steps or self._chunks:
            return 1
        return min(run.turn_at - run.produced for run in self._in_step)

    def _cut_short(self, now: float) -> None:
        """Keep of joined steps those that ended by `now`, and the one under way alone."""
        if self._joined == 1 or self.next_at is None:
            return
        seconds = (self.next_at - self._started_at) / self._joined
        done = min(int((now - self._started_at) / seconds), self._joined - 1)
        self._started_at += done * seconds
        for run in self._in_step:
            if run.outcome is None:
                run.produced += done
                run.last_token_at = self._started_at
        self._joined = 1
        self.next_at = self._started_at + seconds

    def _give_blocks(self) -> None:
        """Give each run that filled its last block another one, or push the youngest run back."""
        for run in self._short_of_block:
            while run.held_blocks and not self.pool.fits((), 1):
                self._push_back(self._youngest())
                self.preemptions += 1
            if run.held_blocks:
                self.pool.take((), 1)
                run.held_blocks += 1
                self._set_turn(run)
        self._short_of_block = []

    def _youngest(self) -> Run:
        return self._prefilling[-1] if self._prefilling else self._decoding[-1]

    def _push_back(self, run: Run) -> None:
        (self._prefilling if run in self._prefilling else self._decoding).remove(run)
        self._release(run)
        run.computed_tokens = 0
        run.preemptions += 1
        self._waiting.appendleft(run)

    def _plan_chunk(self, run: Run) -> float:
        """Plan as much of `run`'s prompt as the step has room for; return the seconds it adds."""
        tokens = min(run.known_tokens - run.computed_tokens, self._budget)
        if tokens <= 0:
            return 0.0
        self._budget -= tokens
        self._chunks.append((run, tokens))
        return self.timing.prefill_seconds(tokens, run.computed_tokens)

    def _admit(self, now: float) -> float:
        """Move waiting runs into the batch, first come first served; return the seconds added."""
        seconds = 0.0
        while self._waiting and self._budget > 0 and self._has_seat():
            run = self._waiting[0]
            host_tokens = self._seat(run, now)
            if host_tokens is None:
                break
            self._prefilling.append(self._waiting.popleft())
            seconds += self._plan_chunk(run)
            seconds += host_tokens / self.timing.host_tokens_per_second
        return seconds

    def _has_seat(self) -> bool:
        return len(self._prefilling) + len(self._decoding) < self.limits.max_num_seqs

    def _seat(self, run: Run, now: float) -> int | None:
        """Give `run` the blocks of all its known tokens, sharing what is cached.

        Returns how many of them come back from host memory; None if the blocks do not fit now.
        """
        size = self.limits.block_tokens
        full = min(run.known_tokens // size, len(run.blocks))
        held = -(-run.known_tokens // size)
        named = run.blocks[:full]
        if not self.pool.fits(named, held - full):
            return None
        # The last token is always computed: its output is the next token's distribution.
        match = self.pool.match(run.blocks, min(full, (run.known_tokens - 1) // size))
        self.pool.take(named, held - full)
        run.held_blocks, run.named_blocks = held, full
        run.computed_tokens = match.blocks * size
        if run.scheduled_at is None:
            run.scheduled_at = now
            run.cached_tokens = run.computed_tokens
            run.host_tokens = match.host_blocks * size
        return match.host_blocks * size

    # --- End of a step -----------------------------------------------------------------------

    def _end_step(self, at: float) -> Step:
        gave: list[Run] = []
        for run in self._in_step:
            if run.outcome is None and run.held_blocks:
                run.produced += self._joined
                run.gap_seconds = (at - run.last_token_at) / self._joined
                run.last_token_at = at
                gave.append(run)
                if run.produced >= run.turn_at:
                    self._turn(run, at)
        prefilled = 0
        for run, tokens in self._chunks:
            if run.outcome is None and run.held_blocks:
                prefilled += tokens
                run.computed_tokens += tokens
                if run.computed_tokens >= run.known_tokens:
                    self._first_token(run, at)
                    gave.append(run)
        return Step(at, self._started_at, gave, prefilled)

    def _first_token(self, run: Run, at: float) -> None:
        self._prefilling.remove(run)
        self._decoding.append(run)
        run.produced += 1
        if run.first_token_at is None:
            run.first_token_at = at
        else:
            run.gap_seconds = at - run.last_token_at
        run.last_token_at = at
        self._set_turn(run)
        if run.produced >= run.turn_at:
            self._turn(run, at)

    def _set_turn(self, run: Run) -> None:
        """Note at how many tokens `run` next ends or fills its last block."""
        room = run.held_blocks * self.limits.block_tokens - run.prompt_tokens
        run.turn_at = min(run.output_tokens, room + 1)

    def _turn(self, run: Run, at: float) -> None:
        self._name_full_block(run)
        if run.produced < run.output_tokens:
            self._short_of_block.append(run)
            return
        self._decoding.remove(run)
        self._finish(run, run.ending, at)

    def _name_full_block(self, run: Run) -> None:
        """Let others share `run`'s last block once it is full and its content is known."""
        # The newest token is known but not computed: it is the next step's input.
        full = (run.known_tokens - 1) // self.limits.block_tokens
        if run.named_blocks < min(full, len(run.blocks)):
            self.pool.name(run.blocks[run.named_blocks])
            run.named_blocks += 1

    def _finish(self, run: Run, outcome: Outcome, at: float) -> None:
        self._release(run)
        run.outcome = outcome
        run.finished_at = at

    def _release(self, run: Run) -> None:
        self.pool.give_back(run.blocks[: run.named_blocks], run.held_blocks - run.named_blocks)
        run.held_blocks = run.named_blocks = 0
