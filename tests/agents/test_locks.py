"""One process at a time, also when the holder dies or leaves a child behind."""

import asyncio
import subprocess
import sys

import pytest

from agents import locks

HOLDS = """
import asyncio, sys
from pathlib import Path
from agents import locks
async def main():
    async with locks.held(Path(sys.argv[1])):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""
LEAVES_A_CHILD = """
import asyncio, os, subprocess, sys
from pathlib import Path
from agents import locks
async def main():
    async with locks.held(Path(sys.argv[1])) as lock:
        subprocess.Popen(["cat"], pass_fds=(lock,), stdout=subprocess.DEVNULL)
        print("held", flush=True)
        os._exit(9)
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "thing.lock"


def _holder(program, path):
    """Return a process that holds the lock, or left it to its child, until its input ends."""
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


async def _is_free(path) -> bool:
    try:
        async with asyncio.timeout(0.1), locks.held(path):
            return True
    except TimeoutError:
        return False


async def test_only_one_holds_it_and_the_next_follows(path):
    order, waited = [], asyncio.Event()

    async def second():
        async with locks.held(path, waiting=waited.set):
            order.append("second")

    async with locks.held(path):
        task = asyncio.create_task(second())
        await asyncio.wait_for(waited.wait(), 5)
        order.append("first")
    await asyncio.wait_for(task, 5)

    assert order == ["first", "second"]


@pytest.mark.parametrize("program", [HOLDS, LEAVES_A_CHILD], ids=["holder", "orphan"])
async def test_another_process_keeps_it_until_all_who_inherited_it_are_gone(path, program):
    process = await asyncio.to_thread(_holder, program, path)

    taken = not await _is_free(path)
    process.stdin.close()
    async with asyncio.timeout(10), locks.held(path):
        pass

    assert taken
    await asyncio.to_thread(process.wait, 10)


async def test_a_killed_holder_frees_it(path):
    process = await asyncio.to_thread(_holder, HOLDS, path)

    process.kill()
    await asyncio.to_thread(process.wait, 10)

    assert await _is_free(path)
