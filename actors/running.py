"""How handlers that are not coroutines run: in a thread, or item by item; and what else surrounds a handler."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from .current import CURRENT
from .policy import StopReason

_END = object()

log = logging.getLogger("callboard.actors")


async def run_in_thread(function: Callable[[], Any]) -> Any:
    """Run ``function`` in the loop's thread pool, with the context of the caller.

    A thread cannot be stopped: if the caller is cancelled, this waits for the function to return (it sees
    ``is_cancelled()``), so that an actor never handles two messages at once by accident. A function that still waits
    for a thread then is not run.
    """
    context = contextvars.copy_context()
    left = False

    def call() -> Any:
        try:
            return None if left else context.run(function)
        except StopIteration as error:  # which no future takes: it would never be done
            raise RuntimeError("the handler raised StopIteration") from error

    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        left = True
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # marks it as seen
        raise


async def plain_stream(source: Iterator[Any], *, blocking: bool) -> AsyncIterator[Any]:
    """Turn a plain generator into an asynchronous one; a blocking one takes each step in a thread."""
    try:
        if not blocking:
            for item in source:
                yield item
            return
        while True:
            item = await run_in_thread(lambda: next(source, _END))
            if item is _END:
                return
            yield item
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            await run_in_thread(close) if blocking else close()


async def absorb(task: asyncio.Task[None]) -> None:
    """Take the cancellation of a letter out of its drainer, so that it does not reach the next one."""
    if task.cancelling():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # one that came while the handler ran is only delivered here
        while task.cancelling():
            task.uncancel()


async def call_on_stop(actor: Any, name: str, reason: StopReason, limit_s: float) -> None:
    """Run the last hook of an actor; what it raises is logged."""
    current = CURRENT.set(None)
    try:
        async with asyncio.timeout(limit_s):
            await actor.on_stop(reason)
    except (Exception, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # else nobody asked for it: on_stop awaited a task that it had cancelled
        log.exception("%s: on_stop failed", name)
    finally:
        CURRENT.reset(current)
