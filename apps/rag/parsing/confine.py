"""Take from the current process what a parser does not need. Linux; stdlib only.

No network and no new programs (seccomp, which needs no privilege), never more privilege, bounded
memory, processor time, wall time, files and output. Cannot be undone: called by the forked child of
`zygote` right before it reads a file.
"""

import ctypes
import errno
import platform
import resource
import signal
import struct

MEMORY_BYTES = 768 * 1024**2
CPU_SECONDS = 30
WALL_SECONDS = 60

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM

# Numbers of socket, socketpair, connect, bind, execve, execveat, ptrace, process_vm_readv,
# process_vm_writev, kill, tgkill (asm/unistd.h of each architecture), and its AUDIT_ARCH.
_CALLS = {
    "x86_64": (0xC000003E, (41, 53, 42, 49, 59, 322, 101, 310, 311, 62, 234)),
    "aarch64": (0xC00000B7, (198, 199, 203, 200, 221, 281, 117, 270, 271, 129, 131)),
}


class NotConfined(Exception):
    """This system cannot take a right away from a process; nothing is parsed here then."""


def confine() -> None:
    """Bound this process for good. Raises NotConfined."""
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(WALL_SECONDS)
    _filter_calls()


def _filter_calls() -> None:
    machine = platform.machine()
    if machine not in _CALLS:
        raise NotConfined(f"no list of system calls for {machine}")
    architecture, calls = _CALLS[machine]
    steps = [
        (0x20, 0, 0, 4),  # load the architecture
        (0x15, 1, 0, architecture),
        (0x06, 0, 0, _REFUSE),
        (0x20, 0, 0, 0),  # load the number of the call
        *((0x15, len(calls) - at, 0, number) for at, number in enumerate(calls)),
        (0x06, 0, 0, _ALLOW),
        (0x06, 0, 0, _REFUSE),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    kept = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(steps), ctypes.addressof(kept))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0
    ):
        raise NotConfined(f"seccomp is refused here (errno {ctypes.get_errno()})")
