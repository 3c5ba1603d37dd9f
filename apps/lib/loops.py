"""One object for each event loop: clients keep connections, and a connection knows but one loop."""

import asyncio
from collections.abc import Callable
from functools import wraps
from weakref import WeakKeyDictionary


def per_loop[T](make: Callable[[], T]) -> Callable[[], T]:
    """Let `make` be called once for each running event loop; it goes when its loop does."""
    made: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    @wraps(make)
    def of_this_loop() -> T:
        loop = asyncio.get_running_loop()
        if loop not in made:
            made[loop] = make()
        return made[loop]

    return of_this_loop
