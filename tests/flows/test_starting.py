"""Starting and ending Hearth: what it says, and what it refuses with exit code 2."""

import socket
import subprocess
import sys

import pytest

from tests.running import ROOT, Hearth, free_port, hearth

pytestmark = pytest.mark.timeout(300)


def up(instance: Hearth, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "up"],
        env={**instance.env, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestRefusals:
    def test_a_port_in_use_is_named_with_its_variable(self, tmp_path):
        instance = Hearth(data=tmp_path / "data")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            result = up(instance, HEARTH_WEB_ADDR=address)

        assert result.returncode == 2
        assert address in result.stderr
        assert "HEARTH_WEB_ADDR" in result.stderr

    @pytest.mark.parametrize("address", ["8000", "localhost:x", "127.0.0.1:99999"])
    def test_an_address_that_is_none_is_named(self, tmp_path, address):
        result = up(Hearth(data=tmp_path / "data"), HEARTH_GATEWAY_ADDR=address)

        assert result.returncode == 2
        assert "HEARTH_GATEWAY_ADDR" in result.stderr

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path):
        blocked = tmp_path / "file"
        blocked.write_text("")

        result = up(Hearth(data=blocked / "data"))

        assert result.returncode == 2
        assert "HEARTH_DATA_DIR" in result.stderr

    def test_a_second_start_on_the_same_folder_is_refused(self, simulated):
        ports = {
            "HEARTH_WEB_ADDR": f"127.0.0.1:{free_port()}",
            "HEARTH_GATEWAY_ADDR": f"127.0.0.1:{free_port()}",
        }

        result = up(simulated, **ports)

        assert result.returncode == 2
        assert "already runs" in result.stderr


class TestStartAndEnd:
    def test_the_password_is_shown_once_and_the_second_start_is_quick(self, tmp_path):
        with hearth(tmp_path / "data", HEARTH_ENGINE="simulator") as instance:
            first = "\n".join(instance.words)
            password = (tmp_path / "data" / "admin_password").read_text().strip()
            assert password in first
            assert instance.stop() < 10

            instance.start()

            assert password not in "\n".join(instance.words)
            assert instance.stop() < 10

    def test_a_child_that_dies_is_started_again(self, simulated):
        old = simulated.child("reconcile")

        old.kill()

        fresh = simulated.new_child("reconcile", old.pid, timeout_seconds=20)
        assert fresh.pid != old.pid
