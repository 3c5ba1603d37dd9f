"""One host's life as its control plane sees it: orders in, reports out, engines between."""

import asyncio

import msgspec
import pytest

from agents.answers import Answers, AnswersBaseline
from agents.link import Fenced
from agents.runtimes.base import RuntimeFault
from agents.wire import (
    CacheKind,
    CacheOrder,
    CacheState,
    DesiredPhase,
    EngineSettings,
    ReadKind,
    ReadOrder,
    RuntimeKind,
)
from tests.agents.fakes import order
from tests.agents.host import AgentHost


async def ready(host: AgentHost, replica_id: str = "r1", generation: int = 1) -> None:
    """Start the agent if need be, with one replica that serves."""
    if host.agent is None:
        await host.control_plane.order(order(replica_id, generation))
        await host.start()
    await host.control_plane.until_phase(replica_id, "ready", generation)


class TestARunningOrder:
    async def test_goes_through_every_phase_to_ready(self, host: AgentHost) -> None:
        await ready(host)

        phases = [phase for _, _, phase in host.control_plane.history]
        assert phases[-3:] == ["fetching", "starting", "ready"]

    async def test_tells_where_it_listens_and_what_it_is(self, host: AgentHost) -> None:
        await ready(host)

        report = host.control_plane.replicas["r1"]
        assert report.endpoint is not None
        assert report.endpoint.address.startswith("unix:/")
        assert report.endpoint.relay_url == "http://relay:1/r/r1"
        assert report.engine_version == "1.2.3"
        assert report.runtime is RuntimeKind.PROCESS

    async def test_tells_the_seconds_of_each_stage_from_the_log(self, host: AgentHost) -> None:
        host.runtime.is_ready_at_once = False
        await host.control_plane.order(order())
        await host.start()
        await host.control_plane.until_phase("r1", "starting")

        host.runtime.logs["hearth-r1-g1"] = ["noise", "import 2.5", "load 7", "warm-up"]
        host.runtime.servers["hearth-r1-g1"].is_ready.set()
        report = await host.control_plane.until_phase("r1", "ready")

        assert report.stage_seconds["import"] == 2.5
        assert report.stage_seconds["load"] == 7
        assert {"engine", "weights", "warm-up"} <= report.stage_seconds.keys()

    async def test_is_sampled_each_second_once_ready(self, host: AgentHost) -> None:
        await ready(host)

        heard = host.control_plane.reports
        await host.control_plane.until(lambda: any(item.samples for item in heard))

        sample = next(item.samples[0] for item in heard if item.samples)
        assert (sample.replica_id, sample.running, sample.memory_bytes) == ("r1", 1, 1 << 30)
        report = await host.control_plane.until_phase("r1", "ready")
        assert report.kv_cache_tokens == 5760

    async def test_is_replaced_by_a_higher_generation(self, host: AgentHost) -> None:
        await ready(host)

        await host.control_plane.order(order(generation=2))
        await host.control_plane.until_phase("r1", "ready", 2)

        acts = [call for call in host.runtime.calls if call.split()[0] in ("start", "stop")]
        assert acts == ["start hearth-r1-g1", "stop hearth-r1-g1", "start hearth-r1-g2"]
        assert list(host.runtime.instances) == ["hearth-r1-g2"]

    async def test_is_not_disturbed_by_a_repeated_order(self, host: AgentHost) -> None:
        await ready(host)

        await host.control_plane.order(order())
        await host.control_plane.order(order("r2"))
        await ready(host, "r2")

        assert host.runtime.calls.count("start hearth-r1-g1") == 1
        assert host.runtime.count("stop") == 0


class TestATombstone:
    async def test_stops_and_removes_the_replica(self, host: AgentHost) -> None:
        await ready(host)

        await host.control_plane.order(order(generation=2, desired=DesiredPhase.ABSENT))
        await host.control_plane.until_phase("r1", "stopped", 2)

        assert host.runtime.instances == {}
        assert not list((host.folder / "run").iterdir())

    async def test_is_told_again_until_no_order_names_the_replica(self, host: AgentHost) -> None:
        await ready(host)
        await host.control_plane.order(order(generation=2, desired=DesiredPhase.ABSENT))
        await host.control_plane.until_phase("r1", "stopped", 2)

        await host.restart()
        await host.control_plane.until_reports(2)

        assert host.control_plane.replicas["r1"].phase == "stopped"
        assert host.runtime.count("start") == 1

    async def test_leaves_nothing_of_a_start_that_failed(self, host: AgentHost) -> None:
        host.runtime.faults["start"] = RuntimeFault("exit", "cannot be started")
        await host.control_plane.order(order())
        await host.start()
        await host.control_plane.until_phase("r1", "failed")

        await host.control_plane.order(order(generation=2, desired=DesiredPhase.ABSENT))
        await host.control_plane.until_phase("r1", "stopped", 2)

        assert not list((host.folder / "run").iterdir())

    async def test_breaks_off_a_start_under_way(self, host: AgentHost) -> None:
        host.runtime.holds["prepare"] = asyncio.Event()
        await host.control_plane.order(order())
        await host.start()
        await host.control_plane.until_phase("r1", "fetching")

        await host.control_plane.order(order(generation=2, desired=DesiredPhase.ABSENT))
        await host.control_plane.until_phase("r1", "stopped", 2)

        assert host.runtime.count("start") == 0


class TestAbsence:
    async def test_deletes_nothing(self, host: AgentHost) -> None:
        await ready(host)

        await host.control_plane.drop("r1")
        await host.control_plane.order(order("r2"))
        await ready(host, "r2")

        assert host.runtime.instances["hearth-r1-g1"].running
        assert host.runtime.count("stop") == 0

    async def test_leaves_the_replica_in_every_complete_report(self, host: AgentHost) -> None:
        await ready(host)
        await host.control_plane.drop("r1")

        await host.restart()
        await host.control_plane.until(
            lambda: host.control_plane.reports[-1].complete and len(host.control_plane.syncs) > 2
        )

        told = {item.replica_id: item.phase for item in host.control_plane.reports[-1].replicas}
        assert told == {"r1": "ready"}

    async def test_forgets_a_replica_of_which_nothing_is_left(self, host: AgentHost) -> None:
        await ready(host)
        await host.control_plane.order(order(generation=2, desired=DesiredPhase.ABSENT))
        await host.control_plane.until_phase("r1", "stopped", 2)

        await host.control_plane.drop("r1")

        await host.control_plane.until(
            lambda: (
                host.control_plane.reports[-1].complete
                and not host.control_plane.reports[-1].replicas
            )
        )


class TestARestartOfTheAgent:
    async def test_adopts_what_runs(self, host: AgentHost) -> None:
        await ready(host)
        heard_before = len(host.control_plane.history)

        await host.restart()
        await host.control_plane.until(lambda: host.control_plane.epoch == 2)
        await host.control_plane.until_reports(2)

        assert host.runtime.count("start") == 1
        assert host.runtime.count("stop") == 0
        assert {phase for _, _, phase in host.control_plane.history[heard_before:]} <= {"ready"}
        assert host.control_plane.replicas["r1"].endpoint is not None

    async def test_probes_what_became_ready_long_after_its_time(self, host: AgentHost) -> None:
        host.runtime.is_ready_at_once = False
        await host.control_plane.order(order(start_timeout_seconds=300))
        await host.start()
        await host.control_plane.until_phase("r1", "starting")
        await host.kill()

        host.skew_seconds = 7200
        host.runtime.servers["hearth-r1-g1"].is_ready.set()
        await host.start()
        await host.control_plane.until_phase("r1", "ready")

        assert host.runtime.count("stop") == 0

    async def test_obeys_what_was_ordered_meanwhile(self, host: AgentHost) -> None:
        await ready(host)
        await host.kill()
        await host.control_plane.order(order(generation=3))

        await host.start()
        await host.control_plane.until_phase("r1", "ready", 3)

        assert list(host.runtime.instances) == ["hearth-r1-g3"]

    async def test_tells_of_an_end_that_nobody_watched(self, host: AgentHost) -> None:
        await ready(host)
        await host.kill()
        host.runtime.logs["hearth-r1-g1"] = ["RuntimeError: out of luck"]
        await host.runtime.end("hearth-r1-g1", 1)

        await host.start()
        report = await host.control_plane.until_phase("r1", "failed")

        assert (report.code, report.exit_code) == ("exit", 1)
        assert host.runtime.count("start") == 1

    async def test_tells_of_an_instance_that_vanished(self, host: AgentHost) -> None:
        await ready(host)
        await host.kill()
        await host.runtime.servers["hearth-r1-g1"].close()
        host.runtime.instances.clear()

        await host.start()
        report = await host.control_plane.until_phase("r1", "failed")

        assert report.reason == "gone: it ended while no agent watched"

    async def test_remembers_a_failure(self, host: AgentHost) -> None:
        host.weights.fault = RuntimeFault("weights_checksum", "sha256 differs")
        await host.control_plane.order(order())
        await host.start()
        await host.control_plane.until_phase("r1", "failed")
        host.weights.fault = None

        await host.restart()
        await host.control_plane.until_reports(3)

        report = host.control_plane.replicas["r1"]
        assert (report.phase, report.code) == ("failed", "weights_checksum")
        assert host.runtime.count("start") == 0


class _Killed(BaseException):
    """What a fail point raises: the agent is gone at this instant."""


class TestAKillBetweenTheSteps:
    """The agent dies at a fail point; the next one ends with exactly one instance, started once."""

    @pytest.mark.parametrize("call", ["start", "stop", "remove"])
    async def test_leaves_one_instance_of_the_newest_generation(
        self, host: AgentHost, call: str
    ) -> None:
        reached = asyncio.Event()

        def fail_point() -> None:
            reached.set()
            raise _Killed

        await ready(host)
        host.runtime.after[call] = fail_point
        await host.control_plane.order(order(generation=2))
        await reached.wait()
        await host.ended()

        await host.start()
        await host.control_plane.until_phase("r1", "ready", 2)

        assert list(host.runtime.instances) == ["hearth-r1-g2"]
        assert host.runtime.calls.count("start hearth-r1-g2") == 1

    async def test_starts_what_was_intended_but_never_begun(self, host: AgentHost) -> None:
        host.runtime.faults["start"] = _Killed()
        await host.control_plane.order(order())
        await host.start()
        await host.ended()
        host.runtime.faults.clear()

        await host.start()
        await host.control_plane.until_phase("r1", "ready")

        assert list(host.runtime.instances) == ["hearth-r1-g1"]

    async def test_goes_on_with_a_fetch(self, host: AgentHost) -> None:
        host.runtime.holds["prepare"] = asyncio.Event()
        await host.control_plane.order(order())
        await host.start()
        await host.control_plane.until_phase("r1", "fetching")
        await host.kill()
        del host.runtime.holds["prepare"]

        await host.start()
        await host.control_plane.until_phase("r1", "ready")

        assert host.runtime.count("start") == 1


class TestAnEndWithoutAnOrder:
    async def test_is_a_failure_even_with_exit_code_zero(self, host: AgentHost) -> None:
        await ready(host)
        host.runtime.logs["hearth-r1-g1"] = [f"line {n}" for n in range(80)] + ["ValueError: no"]

        await host.runtime.end("hearth-r1-g1", 0)
        report = await host.control_plane.until_phase("r1", "failed")

        assert (report.code, report.exit_code) == ("exit", 0)
        assert report.reason == "the engine ended with exit code 0: ValueError: no"
        assert len(report.log_tail) == 50
        assert report.endpoint is None

    async def test_names_the_cause_and_not_what_only_points_to_it(self, host: AgentHost) -> None:
        await ready(host)
        host.runtime.logs["hearth-r1-g1"] = [
            "RuntimeError: Worker failed with error 'InvalidCxxCompiler: No working C++ compiler'",
            *(f"frame {n}" for n in range(80)),
            "EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the "
            "root cause.",
        ]

        await host.runtime.end("hearth-r1-g1", 0)
        report = await host.control_plane.until_phase("r1", "failed")

        assert "No working C++ compiler" in report.reason

    async def test_is_not_repaired_here_while_the_control_plane_is_there(
        self, host: AgentHost
    ) -> None:
        await ready(host)
        await host.runtime.end("hearth-r1-g1", 1)
        await host.control_plane.until_phase("r1", "failed")
        await host.control_plane.until_reports(20)  # longer than a silence that counts as away

        await host.control_plane.order(order(generation=2))
        await host.control_plane.until_phase("r1", "ready", 2)

        assert host.runtime.calls.count("start hearth-r1-g1") == 1

    async def test_for_want_of_memory_says_so(self, host: AgentHost) -> None:
        await ready(host)

        await host.runtime.end("hearth-r1-g1", 137, out_of_memory=True)
        report = await host.control_plane.until_phase("r1", "failed")

        assert report.code == "oom"

    async def test_keeps_its_log_to_be_read(self, host: AgentHost) -> None:
        await ready(host)
        host.runtime.logs["hearth-r1-g1"] = ["last words"]
        await host.runtime.end("hearth-r1-g1", 1)
        await host.control_plane.until_phase("r1", "failed")

        answer = await host.control_plane.read(
            ReadOrder(request_id="q", kind=ReadKind.LOG_TAIL, replica_id="r1", deadline_at=0.0)
        )

        assert answer.lines == ("last words",)


class TestWhatCannotStart:
    @pytest.mark.parametrize("code", ["weights_missing", "weights_checksum", "disk_full"])
    async def test_fails_with_the_word_for_it(self, host: AgentHost, code: str) -> None:
        host.weights.fault = RuntimeFault(code, "it is so")
        await host.control_plane.order(order())
        await host.start()

        report = await host.control_plane.until_phase("r1", "failed")

        assert (report.code, report.reason) == (code, "it is so")

    async def test_fails_when_it_is_not_ready_in_time(self, host: AgentHost) -> None:
        host.runtime.is_ready_at_once = False
        await host.control_plane.order(order(start_timeout_seconds=300))
        await host.start()
        await host.control_plane.until_phase("r1", "starting")

        host.skew_seconds = 301
        report = await host.control_plane.until_phase("r1", "failed")

        assert report.code == "start_timeout"
        await host.until(lambda: not host.runtime.instances["hearth-r1-g1"].running)

    async def test_fails_when_it_no_longer_answers(self, host: AgentHost) -> None:
        await ready(host)

        host.runtime.servers["hearth-r1-g1"].is_healthy = False
        await host.until(lambda: len(host.runtime.servers["hearth-r1-g1"].seen) > 4)
        host.skew_seconds = 60
        report = await host.control_plane.until_phase("r1", "failed")

        assert report.code == "unhealthy"
        await host.until(lambda: host.runtime.count("stop") == 1)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            (order(dtype="nonsense"), "dtype: nonsense is not one of"),
            (order(source="path:/etc"), "HEARTH_WEIGHTS_ROOTS"),
            (order(source="ftp:/m"), "weights source 'ftp:/m' is unknown"),
        ],
        ids=["settings", "folder", "source"],
    )
    async def test_is_refused_with_the_rule_and_the_way_out(
        self, host: AgentHost, wrong, words: str
    ) -> None:
        await host.control_plane.order(wrong)
        await host.start()

        report = await host.control_plane.until_phase("r1", "failed")

        assert report.code == "refused"
        assert words in report.reason
        assert host.runtime.count("start") == 0

    async def test_is_refused_for_an_image_that_this_host_does_not_allow(
        self, host: AgentHost
    ) -> None:
        host.runtime.kind = RuntimeKind.DOCKER
        await host.control_plane.order(order(image="vllm/vllm-openai-evil:1"))
        await host.start()

        report = await host.control_plane.until_phase("r1", "failed")

        assert "HEARTH_ALLOWED_IMAGES" in report.reason
        assert host.runtime.count("prepare") == 0

    async def test_never_makes_a_path_of_a_strange_id(self, host: AgentHost) -> None:
        await host.control_plane.order(order("../../etc"), order("r1"))
        await host.start()

        await host.control_plane.until_phase("r1", "ready")

        assert list(host.control_plane.replicas) == ["r1"]


class TestADeadDaemon:
    async def test_is_never_taken_for_a_replica_that_is_gone(self, host: AgentHost) -> None:
        await ready(host)

        host.runtime.faults["find"] = RuntimeFault("docker_down", "no answer from Docker")
        await host.control_plane.until(
            lambda: host.control_plane.replicas["r1"].code == "docker_down"
        )

        assert host.control_plane.replicas["r1"].phase == "ready"

    async def test_lets_nothing_be_started_until_it_answers(self, host: AgentHost) -> None:
        host.runtime.faults["find"] = RuntimeFault("docker_down", "no answer from Docker")
        await host.control_plane.order(order())
        await host.start()
        await host.control_plane.until(
            lambda: (
                "r1" in host.control_plane.replicas
                and host.control_plane.replicas["r1"].code == "docker_down"
            )
        )
        assert host.runtime.count("start") == 0

        host.runtime.faults.clear()
        await host.control_plane.until_phase("r1", "ready")

    async def test_in_the_middle_of_a_start_is_waited_for(self, host: AgentHost) -> None:
        host.runtime.faults["start"] = RuntimeFault("docker_down", "no answer from Docker")
        await host.control_plane.order(order())
        await host.start()
        await host.control_plane.until(
            lambda: (
                "r1" in host.control_plane.replicas
                and host.control_plane.replicas["r1"].code == "docker_down"
            )
        )

        host.runtime.faults.clear()
        report = await host.control_plane.until_phase("r1", "ready")

        assert report.code == ""


class TestAControlPlaneThatIsAway:
    async def test_stops_no_replica(self, host: AgentHost) -> None:
        await ready(host)

        host.control_plane.status = 503
        host.skew_seconds = 3600
        await host.until(lambda: len(host.runtime.servers["hearth-r1-g1"].seen) > 6)

        assert host.runtime.instances["hearth-r1-g1"].running

    async def test_lets_the_host_restart_what_failed(self, host: AgentHost) -> None:
        await ready(host)
        await host.runtime.end("hearth-r1-g1", 1)
        await host.control_plane.until_phase("r1", "failed")

        host.control_plane.status = 503
        host.skew_seconds = 60
        await host.until(lambda: host.runtime.calls.count("start hearth-r1-g1") == 2)
        host.control_plane.status = 0
        report = await host.control_plane.until_phase("r1", "ready")

        assert report.restarts == 1

    async def test_brings_the_replicas_back_after_a_reboot_from_the_disk(
        self, host: AgentHost
    ) -> None:
        await ready(host)
        await host.kill()
        await host.runtime.servers["hearth-r1-g1"].close()
        host.runtime.instances.clear()
        host.control_plane.status = 503

        await host.start()

        await host.until(lambda: host.runtime.calls.count("start hearth-r1-g1") == 2)

    async def test_hears_everything_when_it_is_back(self, host: AgentHost) -> None:
        await ready(host)
        host.control_plane.status = 503
        await host.until(lambda: "report" in host.control_plane.refused)
        await host.runtime.end("hearth-r1-g1", 1)
        heard = len(host.control_plane.reports)

        host.control_plane.status = 0
        await host.control_plane.until_phase("r1", "failed")

        assert host.control_plane.reports[heard].complete


class TestAnUnwelcomeHost:
    async def test_serves_on_and_obeys_nothing(self, host: AgentHost) -> None:
        await ready(host)

        host.control_plane.status = 401
        await host.control_plane.order(order(generation=2, desired=DesiredPhase.ABSENT))
        await host.until(lambda: len(host.runtime.servers["hearth-r1-g1"].seen) > 6)

        assert host.runtime.instances["hearth-r1-g1"].running
        assert host.runtime.count("stop") == 0


class TestAFencedAgent:
    async def test_stops_acting_and_ends(self, host: AgentHost) -> None:
        await ready(host)

        host.control_plane.epoch += 1
        ending = await host.ended()

        assert isinstance(ending, BaseExceptionGroup)
        assert ending.subgroup(Fenced) is not None
        assert host.runtime.instances["hearth-r1-g1"].running


class TestAnOlderState:
    async def test_is_not_taken_within_one_incarnation(self, host: AgentHost) -> None:
        await ready(host)
        await host.control_plane.order(order("r2"))
        await ready(host, "r2")

        host.control_plane.revision = -1  # a stale answer: nothing but a tombstone for r1
        host.control_plane.orders.clear()
        await host.control_plane.order(order(generation=9, desired=DesiredPhase.ABSENT))
        await host.control_plane.until_reports(2)

        assert host.runtime.count("stop") == 0

    async def test_leaves_an_agent_that_restarts_with_what_it_knew(self, host: AgentHost) -> None:
        await ready(host)
        await host.control_plane.order(order("r2"))
        await ready(host, "r2")
        await host.kill()

        host.control_plane.revision = 0
        host.control_plane.orders.clear()
        await host.runtime.end("hearth-r2-g1", 1)
        await host.start()
        await host.control_plane.until_phase("r2", "failed")

        assert host.control_plane.epoch == 2
        assert host.runtime.count("stop") == 0

    async def test_is_the_truth_after_a_restored_database(self, host: AgentHost) -> None:
        await ready(host, generation=5)

        host.control_plane.incarnation = "two"
        host.control_plane.revision = -1
        await host.control_plane.order(order(generation=2))
        await host.control_plane.until_phase("r1", "ready", 2)

        assert list(host.runtime.instances) == ["hearth-r1-g2"]


class TestReads:
    async def test_of_a_log_are_answered_whatever_the_clocks_say(self, host: AgentHost) -> None:
        await ready(host)
        host.runtime.logs["hearth-r1-g1"] = ["one", "two", "three"]

        answer = await host.control_plane.read(
            ReadOrder(
                request_id="q1", kind=ReadKind.LOG_TAIL, replica_id="r1", lines=2, deadline_at=0.0
            )
        )

        assert answer.lines == ("two", "three")

    async def test_of_a_replica_without_a_log_say_so(self, host: AgentHost) -> None:
        await ready(host)

        answer = await host.control_plane.read(
            ReadOrder(request_id="q2", kind=ReadKind.LOG_TAIL, replica_id="r9", deadline_at=0.0)
        )

        assert answer.error == "it has no log on this host yet"


class TestCacheItems:
    async def test_are_brought_and_told(self, host: AgentHost) -> None:
        item = CacheOrder(
            item_id="c1",
            kind=CacheKind.WEIGHTS,
            desired=CacheState.PRESENT,
            weights=order().spec.weights,
        )

        await host.control_plane.cache(item)
        await host.start()

        await host.control_plane.until(
            lambda: any(
                cached.state is CacheState.PRESENT
                for report in host.control_plane.reports
                for cached in report.cache_items
            )
        )

    async def test_in_use_are_not_removed(self, host: AgentHost) -> None:
        await ready(host)

        item = CacheOrder(
            item_id="c1",
            kind=CacheKind.WEIGHTS,
            desired=CacheState.ABSENT,
            weights=order().spec.weights,
        )
        await host.control_plane.cache(item)
        await host.control_plane.until(
            lambda: any(
                "in use" in cached.reason
                for report in host.control_plane.reports
                for cached in report.cache_items
            )
        )

        assert host.weights.removed == []


class TestReports:
    async def test_rise_in_number_within_an_epoch_and_begin_complete(self, host: AgentHost) -> None:
        await ready(host)
        await host.control_plane.until_reports(2)

        heard = host.control_plane.reports
        assert [item.report_seq for item in heard] == sorted({item.report_seq for item in heard})
        assert heard[0].complete
        assert heard[0].inventory is not None
        assert heard[0].inventory.runtime_reason == "the test says so"

    async def test_carry_the_host_s_numbers_each_second(self, host: AgentHost) -> None:
        await host.start()

        await host.control_plane.until_reports(3)

        sample = host.control_plane.reports[-1].host_sample
        assert sample is not None
        assert 0 <= sample.cpu_ratio <= 1
        assert sample.memory_used_bytes > 0


class TestFirstAnswers:
    async def test_a_replica_whose_answers_make_no_sense_never_serves(
        self, host: AgentHost
    ) -> None:
        settings = EngineSettings(kv_cache_dtype="turboquant_4bit_nc")
        await host.control_plane.order(order(settings=settings))
        await host.start()

        report = await host.control_plane.until_phase("r1", "failed")

        assert report.code == "bad_answers"
        assert "perplexity 19,397.2" in report.reason
        assert report.endpoint is None
        assert host.runtime.count("stop") == 1

    async def test_one_much_worse_than_the_live_revision_never_serves(
        self, host: AgentHost
    ) -> None:
        baseline = AnswersBaseline(revision=3, perplexity=4.0)
        await host.control_plane.order(msgspec.structs.replace(order(), answers_baseline=baseline))
        await host.start()

        report = await host.control_plane.until_phase("r1", "failed")

        assert report.code == "bad_answers"
        assert "revision 3, which serves, has 4.0" in report.reason

    async def test_what_was_seen_is_reported_with_a_replica_that_serves(
        self, host: AgentHost
    ) -> None:
        await host.control_plane.order(order())
        await host.start()

        report = await host.control_plane.until_phase("r1", "ready")

        assert report.answers == Answers(perplexity=8.7)
        assert "check" in report.stage_seconds

    async def test_an_order_may_do_without_the_check(self, host: AgentHost) -> None:
        settings = EngineSettings(kv_cache_dtype="turboquant_4bit_nc", check_answers=False)
        await host.control_plane.order(order(settings=settings))
        await host.start()

        report = await host.control_plane.until_phase("r1", "ready")

        assert report.answers is None

    async def test_an_engine_that_its_first_answers_kill_never_serves(
        self, host: AgentHost
    ) -> None:
        host.runtime.is_ready_at_once = False
        await host.control_plane.order(order())
        await host.start()
        await host.control_plane.until_phase("r1", "starting")
        server = host.runtime.servers["hearth-r1-g1"]
        server.breaks_on = "/first-answers"
        server.is_ready.set()
        await server.broke.wait()
        await host.control_plane.until_reports(2)

        await host.runtime.end("hearth-r1-g1", 0)
        await host.control_plane.until_phase("r1", "failed")

        assert "ready" not in [phase for _, _, phase in host.control_plane.history]
