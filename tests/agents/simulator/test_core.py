"""The simulated scheduler in virtual time."""

import random

import pytest

from agents.simulator.core import Core, Limits, Timing
from agents.simulator.runs import Outcome, Run

TIMING = Timing(
    prefill_tokens_per_second=1000.0, decode_seconds_per_token=0.01, decode_slowdown_per_stream=0.5
)


def core(**limits) -> Core:
    return Core(Limits(**{"kv_cache_tokens": 16_000, **limits}), TIMING)


def run(prompt_tokens=100, output_tokens=1, blocks=()) -> Run:
    return Run(prompt_tokens=prompt_tokens, output_tokens=output_tokens, blocks=blocks)


def play(engine: Core, until: float = float("inf")) -> int:
    """Run `engine` until nothing is left or `until`; return how many tokens it gave."""
    given = 0
    while engine.next_at is not None and engine.next_at <= until:
        given += sum(len(step.runs) for step in engine.advance(engine.next_at))
    return given


class TestTimes:
    def test_first_token_of_a_lone_request_comes_after_its_prompt_over_the_rate(self):
        engine, request = core(), run(prompt_tokens=500)

        engine.submit(request, 10.0)
        play(engine)

        assert request.first_token_at == pytest.approx(10.5)

    def test_a_cached_prefix_costs_no_prefill_time(self):
        engine, blocks = core(), tuple(range(30))
        first, second = run(500, blocks=blocks), run(500, blocks=blocks)

        engine.submit(first, 0.0)
        play(engine)
        engine.submit(second, 1.0)
        play(engine)

        assert second.cached_tokens == 480
        assert second.first_token_at == pytest.approx(1.0 + 20 / 1000)

    def test_each_further_stream_stretches_a_decode_step(self):
        engine = core()
        requests = [run(prompt_tokens=1, output_tokens=50) for _ in range(3)]
        for request in requests:
            engine.submit(request, 0.0)

        play(engine, until=0.2)

        assert requests[0].gap_seconds == pytest.approx(0.01 * (1 + 0.5 * 2))

    def test_a_long_context_makes_prompt_tokens_dearer(self):
        timing = Timing(prefill_tokens_per_second=1000.0, attention_tokens=1000.0)

        assert timing.prefill_seconds(100, context=0) == pytest.approx(0.105)
        assert timing.prefill_seconds(100, context=1000) == pytest.approx(0.205)

    def test_a_prompt_longer_than_a_step_is_spread_over_several(self):
        engine, request = core(max_num_batched_tokens=100), run(prompt_tokens=250)

        engine.submit(request, 0.0)
        steps = [list(engine.advance(engine.next_at)) for _ in range(3)]

        assert [step[0].prefill_tokens for step in steps] == [100, 100, 50]
        assert request.first_token_at == pytest.approx(0.25)

    def test_a_prompt_delays_the_streams_beside_it(self):
        engine = core()
        stream, newcomer = run(1, output_tokens=100), run(prompt_tokens=500)
        engine.submit(stream, 0.0)
        play(engine, until=0.1)

        engine.submit(newcomer, 0.1)
        play(engine, until=0.7)

        assert newcomer.first_token_at == pytest.approx(0.62, abs=0.02)
        assert stream.produced < 25

    def test_steps_follow_each_other_without_drift_when_the_caller_is_late(self):
        prompt, late = core(), core()
        first, second = run(1, output_tokens=20), run(1, output_tokens=20)
        prompt.submit(first, 0.0)
        late.submit(second, 0.0)

        play(prompt)
        list(late.advance(5.0))

        assert second.finished_at == pytest.approx(first.finished_at)


class TestJoinedSteps:
    @pytest.mark.parametrize("seed", range(5))
    def test_they_change_no_time_and_no_cache_hit(self, seed):
        joined, single = (_replay(seed, joins_steps=joins) for joins in (True, False))

        assert [_facts(run) for run in joined] == [
            pytest.approx(_facts(run), abs=1e-6) for run in single
        ]

    def test_a_lone_stream_takes_one_step_for_each_block(self):
        engine = Core(Limits(kv_cache_tokens=1600), TIMING, joins_steps=True)
        engine.submit(run(16, output_tokens=160), 0.0)

        steps = [step for _ in range(12) for step in engine.advance(engine.next_at or 0.0)]

        assert engine.next_at is None
        assert len(steps) == 11


class TestQueue:
    def test_requests_beyond_max_num_seqs_wait_in_order(self):
        engine = core(max_num_seqs=2)
        requests = [run(10, output_tokens=5) for _ in range(4)]
        for request in requests:
            engine.submit(request, 0.0)
        list(engine.advance(engine.next_at))

        assert (engine.running, engine.waiting) == (2, 2)
        play(engine)
        firsts = [request.first_token_at for request in requests]
        assert firsts == sorted(firsts)

    def test_every_request_gets_exactly_its_tokens(self):
        engine = core(max_num_seqs=8)
        requests = [run(20 + n, output_tokens=1 + n * 7) for n in range(30)]
        for n, request in enumerate(requests):
            list(engine.advance(n * 0.01))
            engine.submit(request, n * 0.01)

        play(engine)

        assert [request.produced for request in requests] == [1 + n * 7 for n in range(30)]
        assert {request.outcome for request in requests} == {Outcome.LENGTH}
        assert engine.pool.used_blocks == 0

    def test_a_request_too_large_for_the_cache_is_refused(self):
        engine = core(kv_cache_tokens=160)

        with pytest.raises(ValueError, match="it needs 11 blocks, the cache has 10"):
            engine.submit(run(100, output_tokens=76), 0.0)

    def test_an_aborted_request_frees_its_place_and_its_blocks(self):
        engine = core(max_num_seqs=1)
        first, second = run(10, output_tokens=1000), run(10)
        engine.submit(first, 0.0)
        engine.submit(second, 0.0)
        play(engine, until=1.0)

        engine.abort(first, 1.0)
        play(engine)

        assert first.outcome is Outcome.ABORT
        assert second.outcome is Outcome.LENGTH
        assert engine.pool.used_blocks == 0

    def test_with_no_block_left_the_youngest_request_is_pushed_back_and_still_completes(self):
        engine = core(kv_cache_tokens=16 * 12)
        requests = [run(60, output_tokens=100) for _ in range(2)]
        for request in requests:
            engine.submit(request, 0.0)

        play(engine)

        assert engine.preemptions == 1
        assert requests[1].preemptions == 1
        assert [request.produced for request in requests] == [100, 100]
        assert requests[0].finished_at < requests[1].finished_at
        assert engine.pool.used_blocks == 0


class TestCache:
    def test_the_answer_of_one_turn_is_cached_for_the_next(self):
        engine, blocks = core(), tuple(range(40))
        first = run(160, output_tokens=161, blocks=blocks[:20])
        second = run(400, blocks=blocks[:25])

        engine.submit(first, 0.0)
        play(engine)
        engine.submit(second, 10.0)
        play(engine)

        assert second.cached_tokens == 320

    def test_the_last_token_of_a_prompt_is_always_computed(self):
        engine, blocks = core(), tuple(range(10))
        for at in (0.0, 1.0):
            request = run(160, blocks=blocks)
            engine.submit(request, at)
            play(engine)

        assert request.cached_tokens == 144

    def test_the_oldest_prefix_is_evicted_first(self):
        engine = core(kv_cache_tokens=16 * 30)
        old, kept, new = (tuple(range(n, n + 12)) for n in (0, 100, 200))
        for at, blocks in enumerate((old, kept, new)):
            engine.submit(run(192, blocks=blocks), float(at))
            play(engine)

        assert engine.pool.match(kept, 12).blocks == 12
        assert engine.pool.match(new, 12).blocks == 12
        assert engine.pool.match(old, 12).blocks < 12

    def test_evicted_blocks_come_back_from_host_memory_at_the_host_rate(self):
        limits = Limits(kv_cache_tokens=320, host_cache_tokens=3200)
        engine = Core(limits, Timing(prefill_tokens_per_second=1000.0, host_tokens_per_second=1e4))
        for at, start in enumerate((0, 100, 200)):
            engine.submit(run(320 - 16, blocks=tuple(range(start, start + 19))), float(at))
            play(engine)
        again = run(304, blocks=tuple(range(19)))

        engine.submit(again, 10.0)
        play(engine)

        assert again.host_tokens == again.cached_tokens == 288
        assert again.first_token_at == pytest.approx(10.0 + 16 / 1000 + 288 / 1e4)

    def test_no_prompt_is_shared_without_block_hashes(self):
        engine = core()
        for at in (0.0, 1.0):
            request = run(320)
            engine.submit(request, at)
            play(engine)

        assert request.cached_tokens == 0


class TestPause:
    def test_a_paused_engine_holds_requests_and_shows_none(self):
        engine = core()
        frozen, later = run(10, output_tokens=10), run(10)
        engine.submit(frozen, 0.0)
        play(engine, until=0.03)

        engine.pause()
        engine.submit(later, 1.0)

        assert engine.next_at is None
        assert (engine.running, engine.waiting, engine.in_flight) == (0, 0, 2)

    def test_what_was_frozen_goes_on_after_resume_with_all_its_tokens(self):
        engine, request = core(), run(10, output_tokens=10)
        engine.submit(request, 0.0)
        play(engine, until=0.03)
        before = request.produced

        engine.pause()
        engine.resume(5.0)
        given = play(engine)

        assert 0 < before < 10
        assert given == 10 - before
        assert request.outcome is Outcome.LENGTH

    def test_the_prefix_cache_is_forgotten(self):
        engine, blocks = core(), tuple(range(10))
        engine.submit(run(160, blocks=blocks), 0.0)
        play(engine)

        engine.pause()

        assert engine.pool.match(blocks, 10).blocks == 0


def _replay(seed: int, *, joins_steps: bool) -> list[Run]:
    """Play a random crowd with shared prefixes, preemptions and an abort; return its runs."""
    rng = random.Random(seed)
    limits = Limits(kv_cache_tokens=3200, max_num_seqs=12, max_num_batched_tokens=300)
    engine = Core(limits, TIMING, joins_steps=joins_steps)
    runs, now = [], 0.0
    for _ in range(60):
        now += rng.expovariate(4.0)
        list(engine.advance(now))
        start = 1000 * rng.randrange(4)
        prompt_tokens = rng.randrange(20, 600)
        blocks = tuple(range(start, start + prompt_tokens // 16))
        runs.append(run(prompt_tokens, rng.randrange(1, 120), blocks))
        engine.submit(runs[-1], now)
    engine.abort(runs[-2], now)
    play(engine)
    return runs


def _facts(run: Run) -> list[float]:
    first = -1.0 if run.first_token_at is None else run.first_token_at
    return [run.cached_tokens, run.produced, run.preemptions, first, run.finished_at]
