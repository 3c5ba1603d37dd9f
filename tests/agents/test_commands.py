"""Programs that end, hang, or are no longer wanted."""

import asyncio
import sys

import pytest

from agents import commands

FAMILY = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(child.pid, flush=True)
child.wait()
"""


def _python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


async def test_lines_come_as_they_are_printed_and_the_last_are_kept():
    lines: list[str] = []
    program = "import sys\nfor n in range(100): print(n)\nsys.stderr.write('bad\\n'); sys.exit(3)"

    outcome = await commands.run(_python(program), timeout_seconds=20, on_line=lines.append)

    assert outcome.exit_code == 3
    assert len(lines) == 101
    assert len(outcome.tail) == commands.TAIL_LINES
    assert "bad" in outcome.tail


async def test_a_program_that_hangs_is_ended_with_its_children_at_the_deadline():
    lines: list[str] = []

    with pytest.raises(commands.DeadlinePassed) as caught:
        await commands.run(_python(FAMILY), timeout_seconds=1.0, on_line=lines.append)

    assert caught.value.tail == tuple(lines)
    assert not await _is_alive(int(lines[0]))


async def test_a_caller_that_gives_up_leaves_nothing_behind():
    printed: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(
        commands.run(_python(FAMILY), timeout_seconds=20, on_line=printed.put_nowait)
    )
    child = int(await asyncio.wait_for(printed.get(), 10))

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert not await _is_alive(child)


async def test_a_program_that_is_not_there_is_an_error():
    with pytest.raises(FileNotFoundError):
        await commands.run(["/nonexistent/program"], timeout_seconds=1)


async def _is_alive(pid: int) -> bool:
    """Return whether `pid` lives on; a killed one may need a moment to go."""
    for _ in range(100):
        if not await asyncio.to_thread(_is_running, pid):
            return False
        await asyncio.sleep(0.02)
    return True


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
