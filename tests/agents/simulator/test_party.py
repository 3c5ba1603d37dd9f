"""Simulated engines on several hosts: they meet before they serve, and end together."""

from contextlib import ExitStack, contextmanager

from tests.running import free_port
from tests.simulator_host import FAST, launched


@contextmanager
def pair(folder):
    """Start a head and a worker; neither is waited for."""
    where = ("--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}")
    with ExitStack() as stack:
        engines = []
        for rank in range(2):
            (folder / str(rank)).mkdir()
            flags = (*FAST, *where, f"--node-rank={rank}", *(["--headless"] if rank else []))
            engines.append(stack.enter_context(launched(folder / str(rank), *flags)))
        yield engines


def test_the_head_serves_once_the_worker_has_come_and_the_worker_never(tmp_path):
    with pair(tmp_path) as (head, worker):
        head.wait_for_line("Application startup complete.")

        assert head.log.index("rank 1 has joined") < head.log.index("Starting to load model")
        assert head.socket.exists()
        assert not worker.socket.exists()


async def test_each_ends_with_the_other(tmp_path):
    for dying, (folder, words) in enumerate([("a", "the head"), ("b", "rank 1")]):
        (tmp_path / folder).mkdir()
        with pair(tmp_path / folder) as engines:
            engines[0].wait_for_line("Application startup complete.")
            other = engines[1 - dying]

            engines[dying].process.kill()

            assert await other.exit_code() == 1
            assert f"{words} has ended" in other.log


def test_the_head_alone_serves_nothing(tmp_path):
    where = ("--nnodes=2", f"--master-port={free_port()}")
    with launched(tmp_path, *FAST, *where) as head:
        head.wait_for_line("Waiting for 1 others")

        assert not head.socket.exists()
