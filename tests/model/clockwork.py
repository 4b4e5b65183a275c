"""An event loop that runs step by step, on a clock that moves only when it is told to."""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

START_S = 1000.0


class _Idle(selectors.DefaultSelector):
    """Nothing comes from outside: a loop that would wait has nothing to do until the clock moves, so it stops."""

    clockwork: Clockwork

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self.clockwork.next_s = timeout
            self.clockwork.loop.stop()
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    clockwork: Clockwork

    def time(self) -> float:
        return self.clockwork.now_s


class Clockwork:
    """One loop and its clock. `monotonic` in the modules of callboard is this clock until `close`."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.next_s: float | None = None
        """How long until the next timer, when the loop was last idle."""
        selector = _Idle()
        selector.clockwork = self
        _Loop.clockwork = self
        self.loop = _Loop(selector)
        self.strays: list[dict[str, Any]] = []
        """What reached nobody but the loop."""
        self.loop.set_exception_handler(lambda loop, context: self.strays.append(context))
        self._patches = ExitStack()
        for name, module in list(sys.modules.items()):
            if name.startswith("callboard.") and getattr(module, "monotonic", None) is time.monotonic:
                self._patches.enter_context(patch.object(module, "monotonic", lambda: self.now_s))

    def close(self) -> None:
        """Close the loop and give the modules their clock back."""
        self._patches.close()
        self.loop.close()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Within this block the loop counts as running, as it does where the runtime is called by a callback."""
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def turns(self, count: int) -> None:
        """Run everything that is ready, ``count`` times."""
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def settle(self) -> None:
        """Run until nothing happens any more without a change of the clock."""
        self.loop.run_forever()

    def advance(self, seconds: float) -> None:
        """Move the clock on, from timer to timer, and let everything settle at each."""
        end_s = self.now_s + seconds
        self.settle()
        while self.next_s is not None and self.now_s + self.next_s <= end_s:
            self.now_s += self.next_s
            self.settle()
        self.now_s = end_s
        self.settle()

    def run(self, work: Awaitable[Any]) -> Any:
        """Return the result of ``work``, moving the clock on as often as it waits for it."""
        task = asyncio.ensure_future(work, loop=self.loop)
        self.settle()
        while not task.done():
            if self.next_s is None:
                raise AssertionError(f"{task} waits, and nothing will ever happen")
            self.now_s += self.next_s
            self.settle()
        return task.result()
