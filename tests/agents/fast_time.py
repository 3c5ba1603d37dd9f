"""An event loop in which a second lasts a tenth: sleeps, timeouts and deadlines pass quickly.

Everything that asks the loop for the time agrees, so nothing but the speed changes; what other
processes and the disk take is not made faster, so deadlines must leave room for that.
"""

import asyncio
import selectors

SPEED = 10.0


class _Selector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / SPEED)


class FastLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__(_Selector())

    def time(self) -> float:
        return super().time() * SPEED
