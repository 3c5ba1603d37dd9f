"""Becoming a host: a token once, a credential ever after."""

from pathlib import Path

import httpx
import pytest

from agents.enrolment import enrolled
from agents.inventory import Gpus, Host
from agents.link import Link
from agents.settings import Settings, UsageError
from agents.store import Identity, open_store
from agents.wire import RuntimeKind
from tests.agents.control_plane import CREDENTIAL, HOST_ID, TOKEN, ControlPlane


class Folder:
    """An agent's folder and the control plane that it enrols with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = open_store(path)
        self.control_plane = ControlPlane()
        self.link = Link("http://cp", "", httpx.ASGITransport(app=self.control_plane))

    async def enrol(self, token: str) -> Identity:
        given = Settings(command="run", data_dir=self.path, host_name="gpu-1", join_token=token)
        host = Host(self.path, Gpus(), RuntimeKind.PROCESS, "no Docker here")
        return await enrolled(given, self.store, self.link, host)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


class TestEnrolled:
    async def test_trades_the_token_for_a_credential_and_keeps_it(self, folder: Folder) -> None:
        identity = await folder.enrol(TOKEN)

        assert (identity.host_id, identity.host_name) == (HOST_ID, "gpu-1")
        assert folder.store.identity() == identity
        assert folder.link.credential == CREDENTIAL
        request = folder.control_plane.enrolments[0]
        assert request.install_id == identity.install_id
        assert request.inventory.runtime_reason == "no Docker here"

    async def test_needs_no_token_and_asks_nobody_the_second_time(self, folder: Folder) -> None:
        first = await folder.enrol(TOKEN)

        assert await folder.enrol("") == first
        assert len(folder.control_plane.enrolments) == 1

    async def test_needs_a_token_the_first_time(self, folder: Folder) -> None:
        with pytest.raises(UsageError, match="give it with --join-token"):
            await folder.enrol("")

    async def test_tells_why_a_token_is_refused(self, folder: Folder) -> None:
        with pytest.raises(UsageError, match="refused this host: The join token is not known"):
            await folder.enrol("wrong")

    async def test_keeps_its_install_id_when_the_answer_was_lost(self, folder: Folder) -> None:
        folder.control_plane.status = 400
        with pytest.raises(UsageError):
            await folder.enrol(TOKEN)
        folder.control_plane.status = 0
        before = folder.store.identity().install_id

        assert (await folder.enrol(TOKEN)).install_id == before
