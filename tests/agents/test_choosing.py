"""Docker or processes: which, and why."""

from dataclasses import dataclass

import pytest

from agents.choosing import Choice, choose
from agents.runtimes.base import RuntimeFault
from agents.wire import DesiredPhase, RuntimeKind, SyncReply
from tests.agents.fakes import order

IMAGE = "vllm/vllm-openai:v1"


@dataclass
class Daemon:
    is_up: bool = True
    has_image: bool = True

    async def check(self) -> None:
        if not self.is_up:
            raise RuntimeFault("docker_down", "connection refused")

    async def can_have(self, image: str) -> bool:
        return self.has_image


def never() -> Daemon:
    raise AssertionError("Docker must not be asked")


async def chosen(docker, *, given=None, used=(), desired=None) -> Choice:
    return await choose(given=given, used=used, desired=desired, image=lambda: IMAGE, docker=docker)


def state(desired: DesiredPhase) -> SyncReply:
    return SyncReply(incarnation="a", revision=1, agent_epoch=1, replicas=(order(desired=desired),))


class TestChoose:
    async def test_takes_docker_where_it_has_the_image(self) -> None:
        choice = await chosen(Daemon)

        assert choice.kind is RuntimeKind.DOCKER
        assert IMAGE in choice.reason

    async def test_takes_processes_where_no_daemon_is_in_sight(self) -> None:
        assert (await chosen(None)).kind is RuntimeKind.PROCESS

    async def test_takes_processes_where_the_daemon_is_down_and_says_so(self) -> None:
        choice = await chosen(lambda: Daemon(is_up=False))

        assert choice == Choice(
            RuntimeKind.PROCESS, "Docker's daemon does not answer: connection refused"
        )

    async def test_takes_processes_where_the_image_cannot_be_had(self) -> None:
        choice = await chosen(lambda: Daemon(has_image=False))

        assert choice.kind is RuntimeKind.PROCESS
        assert f"{IMAGE} is not here" in choice.reason

    @pytest.mark.parametrize("kind", list(RuntimeKind))
    async def test_takes_what_was_asked_for(self, kind: RuntimeKind) -> None:
        assert (await chosen(never, given=kind)).kind is kind

    async def test_stays_with_docker_after_a_reboot_that_docker_is_late_for(self) -> None:
        used = (RuntimeKind.PROCESS, RuntimeKind.DOCKER)

        choice = await chosen(never, used=used, desired=state(DesiredPhase.RUNNING))

        assert choice.kind is RuntimeKind.DOCKER

    async def test_chooses_anew_once_nothing_is_to_run_here(self) -> None:
        used = (RuntimeKind.PROCESS,)

        choice = await chosen(Daemon, used=used, desired=state(DesiredPhase.ABSENT))

        assert choice.kind is RuntimeKind.DOCKER
