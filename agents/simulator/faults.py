"""Faults that the simulator acts out when told to: how real engines die, hang and cut streams.

A fault is one word, some with a number: `crash_after_requests:3` serves three requests and dies
in the middle of the fourth. Called at start by `server` and for each request by `generation`.
"""

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    NONE = ""
    EXIT_AT_START = "exit_at_start"  # the number is the exit code, 1 if not given
    HANG_AT_START = "hang_at_start"  # never becomes ready
    CRASH_AFTER_REQUESTS = "crash_after_requests"  # error chunk, [DONE], /health 503, exit code 0
    KILL_AFTER_REQUESTS = "kill_after_requests"  # gone at once as by SIGKILL, streams cut
    CUT_AFTER_REQUESTS = "cut_after_requests"  # one stream ends without [DONE]; the rest goes on
    HANG_AFTER_REQUESTS = "hang_after_requests"  # accepts requests, gives no token
    ERROR_AFTER_REQUESTS = "error_after_requests"  # answers 500
    SLEEP_KEEPS_MEMORY = "sleep_keeps_memory"  # says that it sleeps and frees nothing
    SLEEP_FAILS = "sleep_fails"  # answers 500 and stays awake
    WAKE_FAILS = "wake_fails"  # answers 500 and sleeps on
    WAKE_HANGS = "wake_hangs"  # never answers
    WAKE_GARBLES = "wake_garbles"  # wakes and answers nonsense


_COUNTED = {kind for kind in FaultKind if kind.endswith("_after_requests")}


@dataclass(frozen=True)
class Fault:
    kind: FaultKind = FaultKind.NONE
    number: int = 0

    def strikes(self, earlier_requests: int) -> bool:
        """Return whether the request that comes after `earlier_requests` others is hit."""
        if self.kind is FaultKind.CUT_AFTER_REQUESTS:
            return earlier_requests == self.number
        return self.kind in _COUNTED and earlier_requests >= self.number


def parse_fault(text: str) -> Fault:
    """Return the fault named by `text`; raises ValueError with the words that exist."""
    word, colon, number = text.partition(":")
    known = ", ".join(kind for kind in FaultKind if kind)
    if word not in set(FaultKind):
        raise ValueError(f"unknown fault {text!r}; known: {known}")
    kind = FaultKind(word)
    if kind in _COUNTED and not colon:
        raise ValueError(f"fault {word!r} needs a number of requests, as in {word}:3")
    if colon and not number.isdecimal():
        raise ValueError(f"the number of fault {text!r} is not a whole number")
    if colon and kind not in _COUNTED and kind is not FaultKind.EXIT_AT_START:
        raise ValueError(f"fault {word!r} takes no number")
    default = 1 if kind is FaultKind.EXIT_AT_START else 0
    return Fault(kind, int(number) if colon else default)
