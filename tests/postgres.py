"""A private PostgreSQL for tests, on a Unix socket in a folder of its own.

`python -m tests.postgres COMMAND…` runs a command with `HEARTH_TEST_DATABASE_URL` set, such as the
unit tests: `python -m tests.postgres pytest tests/apps/traffic`.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")
_FAST = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")
"""What is lost with the machine is no loss to a test."""


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs. Raises AssertionError if there is none."""
    found = shutil.which("createdb")
    folders = sorted(_DEBIAN.glob("*/bin")) or ([Path(found).parent] if found else [])
    assert folders, "no PostgreSQL here: apt-get install postgresql (tests/e2e/install.sh does)"
    return folders[-1]


@dataclass(frozen=True)
class Cluster:
    """One private cluster with a database `hearth`."""

    folder: Path
    user: str | None

    @property
    def url(self) -> str:
        return f"postgresql://hearth@/hearth?host={self.folder}"

    def start(self) -> None:
        options = " ".join(("-c listen_addresses=''", f"-k {self.folder}", *_FAST))
        log = ("-l", str(self.folder / "log"))
        self.run("pg_ctl", "-D", str(self.folder / "data"), *log, "-o", options, "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def run(self, program: str, *arguments: str) -> None:
        command = [str(binaries() / program), *arguments]
        # Not captured by pipes: the server would inherit them and hold them open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                command, user=self.user, cwd="/", stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, timeout=60, check=False,
            )  # fmt: skip
            output.seek(0)
            assert done.returncode == 0, f"{program}: {output.read().decode()}"


@contextmanager
def running() -> Iterator[Cluster]:
    """Run a cluster with an empty database."""
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="hearth-pg-")), _user())
    if cluster.user is not None:
        shutil.chown(cluster.folder, cluster.user)
    try:
        data = str(cluster.folder / "data")
        cluster.run("initdb", "-D", data, "-U", "hearth", "--auth=trust", "-N")
        cluster.start()
        try:
            cluster.run("createdb", "-h", str(cluster.folder), "-U", "hearth", "hearth")
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(cluster.folder, ignore_errors=True)


def _user() -> str | None:
    """Return whom to run it as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    return pwd.getpwnam("postgres").pw_name


def main() -> int:
    with running() as cluster:
        environment = {**os.environ, "HEARTH_TEST_DATABASE_URL": cluster.url}
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
