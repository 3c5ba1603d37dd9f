"""What the tests start does not outlive them."""

import subprocess
import sys

import psutil

from tests.running import ROOT, wait_until

STARTS_A_CHILD_AND_WAITS = """
import subprocess, sys
from tests.running import end_with_parent
command = [sys.executable, "-c", "import signal; signal.pause()"]
child = subprocess.Popen(command, start_new_session=True, preexec_fn=end_with_parent)
print(child.pid, flush=True)
child.wait()
"""


def test_what_a_killed_test_run_started_ends_with_it():
    command = [sys.executable, "-c", STARTS_A_CHILD_AND_WAITS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = psutil.Process(int(run.stdout.readline()))

        run.kill()

    wait_until(lambda: has_ended(child), 10, "the end of the child")


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
