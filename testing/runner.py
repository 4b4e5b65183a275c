"""Runs one coroutine test on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the maker of the event loop that callboard itself runs on: uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def run(function: Callable[..., Awaitable[object]], arguments: dict[str, Any]) -> None:
    """Run ``function(**arguments)`` on a fresh loop and close it.

    Raises what the function raised; or, as a group, the errors that reached nobody but the loop (a callback
    that raised, a task whose error was never read).
    """
    strays: list[dict[str, Any]] = []

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None

        def heard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            strays.append(context)
            # A time limit of the test runner is raised by a signal handler, and uvloop reports it here.
            if not isinstance(context.get("exception", Exception()), Exception):
                task.cancel()

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(heard)
        # Named as asyncio names them, which older uvloops do not: the leak gate knows them by it.
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
        await function(**arguments)

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    except asyncio.CancelledError:
        for error in (stray.get("exception") for stray in strays):
            if isinstance(error, BaseException) and not isinstance(error, Exception):
                raise error from None
        raise
    if strays:
        raise ExceptionGroup("errors that only the event loop saw", [_as_error(stray) for stray in strays])


def _as_error(context: dict[str, Any]) -> Exception:
    error = context.get("exception")
    text = "; ".join(f"{key}: {value!r}" for key, value in context.items() if key != "exception")
    if not isinstance(error, Exception):
        return RuntimeError(f"{text}; {error!r}" if error else text)
    error.add_note(text)
    return error
