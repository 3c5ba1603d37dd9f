"""The fences and the next step: a table of cases, and a machine that tries orders of faults."""

from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents.converge import (
    Attend,
    Conclude,
    Desired,
    Seen,
    Settle,
    Start,
    Step,
    Stop,
    Wait,
    accept,
    next_step,
    restart_delay_seconds,
)
from agents.journal import Move, Past
from agents.runtimes.base import LABEL_GENERATION, LABEL_REPLICA, Instance
from agents.wire import DesiredPhase, ReplicaOrder, SyncReply
from tests.agents.fakes import order

RUN_1 = order(generation=1)
RUN_2 = order(generation=2)
REST_1 = order(generation=1, desired=DesiredPhase.ASLEEP)
GONE_2 = order(generation=2, desired=DesiredPhase.ABSENT)


def instance(generation: int, *, running: bool = True, exit_code: int | None = None) -> Instance:
    return Instance(
        name=f"g{generation}",
        ref="1",
        labels={LABEL_REPLICA: "r1", LABEL_GENERATION: str(generation)},
        running=running,
        started_at=0.0,
        exit_code=exit_code,
    )


def past(move: Move, generation: int = 1, restarts: int = 0) -> Past:
    return Past(replica_id="r1", generation=generation, move=move, at=100.0, restarts=restarts)


def ended(generation: int) -> Instance:
    return instance(generation, running=False, exit_code=1)


STOP_1 = Stop(("g1",), 0.1)
CASES: list[tuple[str, ReplicaOrder | None, Seen, Step]] = [
    ("an order and nothing there", RUN_1, Seen(), Start(RUN_1)),
    ("what runs as ordered", RUN_1, Seen((instance(1),), past(Move.READY)), Attend("g1", False)),
    ("what runs and no journal", RUN_1, Seen((instance(1),)), Attend("g1", False)),
    ("what is to sleep", REST_1, Seen((instance(1),), past(Move.READY)), Attend("g1", True)),
    ("what sleeps as ordered", REST_1, Seen((instance(1),), past(Move.ASLEEP)), Attend("g1", True)),
    (
        "what sleeps and is to serve",
        RUN_1,
        Seen((instance(1),), past(Move.ASLEEP)),
        Attend("g1", False),
    ),
    ("it vanished while it slept", REST_1, Seen((), past(Move.ASLEEP)), Conclude(1)),
    ("nothing there that is to sleep", REST_1, Seen(), Start(REST_1)),
    ("an older one runs", RUN_2, Seen((instance(1),), past(Move.READY)), STOP_1),
    ("an older one ended", RUN_2, Seen((ended(1),), past(Move.FAILED)), STOP_1),
    ("a newer one, database restored", RUN_1, Seen((instance(5),)), Stop(("g5",), 0.1)),
    ("it ended unasked", RUN_1, Seen((ended(1),), past(Move.READY)), Conclude(1, "g1")),
    ("it vanished", RUN_1, Seen((), past(Move.READY)), Conclude(1)),
    ("intent, but nothing was begun", RUN_1, Seen((), past(Move.STARTING)), Start(RUN_1)),
    (
        "made but never begun",
        RUN_1,
        Seen((instance(1, running=False),), past(Move.STARTING)),
        Start(RUN_1),
    ),
    ("it failed and all is watched", RUN_1, Seen((), past(Move.FAILED)), Wait()),
    ("it failed before, a new order", RUN_2, Seen((), past(Move.FAILED)), Start(RUN_2)),
    (
        "it failed and the host is alone, too early",
        RUN_1,
        Seen((), past(Move.FAILED), away=True, now=101.0),
        Wait(102.0),
    ),
    (
        "it failed and the host is alone",
        RUN_1,
        Seen((), past(Move.FAILED), away=True, now=102.0),
        Start(RUN_1, again=True),
    ),
    (
        "it failed, the host is alone and its clock was set back",
        RUN_1,
        Seen((), past(Move.FAILED), away=True, now=50.0),
        Start(RUN_1, again=True),
    ),
    ("stopped by the host's own wish", RUN_1, Seen((), past(Move.CLEARED)), Start(RUN_1)),
    ("half stopped by that wish", RUN_1, Seen((ended(1),), past(Move.CLEARED)), STOP_1),
    ("a stop was begun, order again", RUN_2, Seen((), past(Move.STOPPING)), Start(RUN_2)),
    ("a tombstone", GONE_2, Seen((instance(1),), past(Move.READY)), STOP_1),
    (
        "a tombstone for two",
        GONE_2,
        Seen((instance(2), instance(1))),
        Stop(("g1", "g2"), 0.1),
    ),
    ("a tombstone and nothing there", GONE_2, Seen(), Settle(2)),
    ("a fulfilled tombstone", GONE_2, Seen((), past(Move.STOPPED, 2)), Wait()),
    ("a tombstone older than what runs", GONE_2, Seen((instance(3),)), Attend("g3")),
    ("no order and something runs", None, Seen((instance(1),)), Attend("g1")),
    ("no order and something ended", None, Seen((ended(1),)), Conclude(1, "g1")),
    ("no order, its end was told", None, Seen((ended(1),), past(Move.FAILED)), Wait()),
    ("no order and nothing", None, Seen(), Wait()),
]


class TestNextStep:
    @pytest.mark.parametrize(
        ("wanted", "seen", "step"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
    )
    def test_is(self, wanted: ReplicaOrder | None, seen: Seen, step: Step) -> None:
        assert next_step(wanted, seen) == step

    def test_rests_longer_after_each_failure_up_to_a_cap(self) -> None:
        delays = [restart_delay_seconds(n) for n in (0, 1, 2, 20)]

        assert delays == [2.0, 4.0, 8.0, 300.0]


def reply(revision: int, *orders: ReplicaOrder, incarnation: str = "a") -> SyncReply:
    return SyncReply(incarnation=incarnation, revision=revision, agent_epoch=1, replicas=orders)


class TestAccept:
    def test_takes_the_first_state(self) -> None:
        assert accept(Desired(), reply(7, RUN_1)) == Desired("a", 7, {"r1": RUN_1})

    def test_refuses_a_lower_revision(self) -> None:
        assert accept(Desired("a", 7), reply(6, RUN_1)) is None

    def test_takes_the_same_revision_again(self) -> None:
        assert accept(Desired("a", 7, {"r1": RUN_1}), reply(7, RUN_1)) is not None

    def test_keeps_a_higher_generation(self) -> None:
        held = Desired("a", 7, {"r1": RUN_2})

        taken = accept(held, reply(8, RUN_1))

        assert taken == Desired("a", 8, {"r1": RUN_2})

    def test_starts_both_fences_anew_after_a_restore(self) -> None:
        held = Desired("a", 7, {"r1": RUN_2})

        taken = accept(held, reply(1, RUN_1, incarnation="b"))

        assert taken == Desired("b", 1, {"r1": RUN_1})


@dataclass
class ControlPlaneModel:
    incarnation: int = 1
    revision: int = 0
    orders: dict[str, ReplicaOrder] = field(default_factory=dict)
    epoch: int = 0
    last_report: tuple[int, int] = (0, 0)
    view: dict[str, int] = field(default_factory=dict)
    """Replica -> generation that runs, as last reported."""

    def snapshot(self) -> SyncReply:
        return SyncReply(
            incarnation=str(self.incarnation), revision=self.revision, agent_epoch=self.epoch,
            replicas=tuple(self.orders.values()),
        )  # fmt: skip


@dataclass
class AgentModel:
    """The agent's memory; `disk` is what a kill leaves of it."""

    desired: Desired = field(default_factory=Desired)
    epoch: int = 0
    seq: int = 0
    journal: dict[str, Past] = field(default_factory=dict)


REPLICAS = st.sampled_from(["r1", "r2"])


class Fences(RuleBasedStateMachine):
    """The agent's rules under lost, repeated and reordered messages, kills and restores.

    R1 no lower revision within an incarnation, R2 no lower generation, R3 a restore resets both,
    R5 absence deletes nothing, R6 two healthy syncs after any faults bring all in agreement. (R4,
    that old reports are dropped, is the control plane's; it is modelled so that R6 can be seen.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.cp = ControlPlaneModel()
        self.agent = AgentModel()
        self.docker: dict[str, Instance] = {}
        self.wire: list[SyncReply] = []
        self.reports: list[tuple[tuple[int, int], dict[str, int]]] = []
        self.backup: ControlPlaneModel | None = None
        self.new_session()

    # --- What people and time do ------------------------------------------------------------

    @rule(replica=REPLICAS, desired=st.sampled_from([DesiredPhase.RUNNING, DesiredPhase.ABSENT]))
    def order(self, replica: str, desired: DesiredPhase) -> None:
        known = self.cp.orders.get(replica)
        generation = max(known.generation if known else 0, self.cp.view.get(replica, 0)) + 1
        self.cp.orders[replica] = order(replica, generation, desired)
        self.cp.revision += 1

    @rule(replica=REPLICAS)
    def forget(self, replica: str) -> None:
        """The control plane names a replica no more, tombstone or not."""
        if self.cp.orders.pop(replica, None) is not None:
            self.cp.revision += 1

    @rule()
    def back_up(self) -> None:
        self.backup = msgspec.json.decode(msgspec.json.encode(self.cp), type=ControlPlaneModel)

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore(self) -> None:
        newest = self.cp.incarnation
        self.cp = replace(self.backup, orders=dict(self.backup.orders), view=dict(self.backup.view))
        self.cp.incarnation = newest + 1
        self.wire.clear()  # what was under way dies with the connections of the old process
        self.reports.clear()
        self.new_session()

    # --- What the network does --------------------------------------------------------------

    @rule()
    def send(self) -> None:
        self.wire.append(self.cp.snapshot())

    @precondition(lambda self: self.wire)
    @rule(data=st.data(), again=st.booleans())
    def deliver(self, data: st.DataObject, again: bool) -> None:
        at = data.draw(st.integers(0, len(self.wire) - 1))
        self.take(self.wire[at] if again else self.wire.pop(at))

    @precondition(lambda self: self.reports)
    @rule(data=st.data(), again=st.booleans())
    def deliver_report(self, data: st.DataObject, again: bool) -> None:
        at = data.draw(st.integers(0, len(self.reports) - 1))
        self.hear(*(self.reports[at] if again else self.reports.pop(at)))

    # --- What the host does -----------------------------------------------------------------

    @rule(replica=REPLICAS)
    def act(self, replica: str) -> None:
        self.carry_out(replica)

    @rule()
    def report(self) -> None:
        self.agent.seq += 1
        running = {key: item.generation for key, item in self.docker.items() if item.running}
        self.reports.append(((self.agent.epoch, self.agent.seq), running))

    @rule()
    def kill(self) -> None:
        """The agent dies: the desired state and the journal are on the disk, nothing else."""
        self.new_session()

    @precondition(lambda self: self.docker)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.docker)))
        self.docker[key] = replace(self.docker[key], running=False, exit_code=1)

    # --- How -------------------------------------------------------------------------------

    def new_session(self) -> None:
        self.cp.epoch += 1
        self.agent.epoch, self.agent.seq = self.cp.epoch, 0

    def take(self, reply: SyncReply) -> None:
        before = self.agent.desired
        taken = accept(before, reply)
        if taken is None:
            return
        self.agent.desired = taken
        if taken.incarnation == before.incarnation:  # R1, R2
            assert taken.revision >= before.revision
            for key, item in taken.orders.items():
                known = before.orders.get(key)
                assert known is None or item.generation >= known.generation

    def hear(self, number: tuple[int, int], running: dict[str, int]) -> None:
        if number <= self.cp.last_report:  # R4
            return
        self.cp.last_report = number
        self.cp.view = dict(running)

    def carry_out(self, replica: str) -> bool:
        """Do the next step; return whether there was one."""
        wanted = self.agent.desired.orders.get(replica)
        held = self.docker.get(replica)
        seen = Seen((held,) if held else (), self.agent.journal.get(replica))
        step = next_step(wanted, seen)
        match step:
            case Start():
                made = instance(step.order.generation)
                self.docker[replica] = replace(made, labels={**made.labels, LABEL_REPLICA: replica})
                self.note(replica, Move.STARTED, step.order.generation)
            case Stop():
                assert wanted is not None  # R5: absence stops nothing
                assert held is not None
                if wanted.desired is DesiredPhase.ABSENT:
                    assert wanted.generation >= held.generation
                del self.docker[replica]
                self.note(replica, Move.STOPPING, held.generation)
            case Conclude():
                self.note(replica, Move.FAILED, step.generation)
            case Settle():
                self.note(replica, Move.STOPPED, step.generation)
            case Attend() | Wait():
                return False
        return True

    def note(self, replica: str, move: Move, generation: int) -> None:
        self.agent.journal[replica] = Past(
            replica_id=replica, generation=generation, move=move, at=0.0
        )

    def settle(self) -> None:
        """Two healthy syncs, and time to act."""
        for _ in range(2):
            self.take(self.cp.snapshot())
            for replica in ("r1", "r2"):
                for _ in range(6):
                    if not self.carry_out(replica):
                        break
                assert not self.carry_out(replica), "it never comes to rest"
            self.agent.seq += 1
            running = {key: item.generation for key, item in self.docker.items() if item.running}
            self.hear((self.agent.epoch, self.agent.seq), running)

    @invariant()
    def nothing_ordered_to_run_is_left_out_for_good(self) -> None:
        """R6: from here, without further faults, what runs comes to be what is ordered."""
        saved = (self.cp, self.agent, dict(self.docker))
        self.cp = replace(self.cp, orders=dict(self.cp.orders), view=dict(self.cp.view))
        self.agent = replace(self.agent, journal=dict(self.agent.journal))
        self.settle()
        self.check_converged()
        self.cp, self.agent, self.docker = saved

    def check_converged(self) -> None:
        running = {key: item.generation for key, item in self.docker.items() if item.running}
        assert self.cp.view == running
        for key, item in self.agent.desired.orders.items():
            known = self.agent.journal.get(key)
            failed = known is not None and known.move is Move.FAILED
            if item.desired is DesiredPhase.RUNNING and not failed:
                assert running.get(key) == item.generation
            if item.desired is DesiredPhase.ABSENT and key in running:
                assert running[key] > item.generation


Fences.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestFences = Fences.TestCase
