"""How handlers that are not coroutines run: in a thread, or item by item; and what else surrounds a handler."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from .codec import Codec
from .errors import BadArguments, CodecError
from .hooks import HOOKS, Observed
from .mailbox import Letter
from .signature import Run

_END = object()


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


def open_body(letter: Letter, codec: Codec, value: Any = None) -> list[Any]:
    """Return the positional arguments of a letter; those with a name go into it. Raises `CodecError`, `BadArguments`.

    ``value`` is its body, if that is decoded already.
    """
    if letter.body is None:
        return list(letter.args)
    if value is None:
        value = codec.decode(letter.body, letter.buffers)
    letter.body, letter.buffers = None, ()
    if type(value) is list:
        return value
    if type(value) is dict and type(args := value.get("a")) is list and type(value.get("k")) is dict:
        letter.kwargs = value["k"]
        return args
    raise BadArguments(f"{letter.method.name}: the arguments are neither a list nor a map of both kinds")


async def run_handler(actor: Any, letter: Letter, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Run the handler of a letter to its end, whatever kind it is, within the hooks; returns its result."""
    if not HOOKS.on:
        return await _run(actor, letter, args, kwargs)
    with Observed(letter.cell.location.name, letter.method.name, letter.extra):
        return await _run(actor, letter, args, kwargs)


async def _run(actor: Any, letter: Letter, args: list[Any], kwargs: dict[str, Any]) -> Any:
    method = letter.method
    if method.run is Run.COROUTINE:
        return await method.function(actor, *args, **kwargs)
    if method.run is Run.PLAIN and not method.blocking:
        return method.function(actor, *args, **kwargs)
    if not method.streams:
        return await run_in_thread(lambda: method.function(actor, *args, **kwargs))
    source: AsyncIterator[Any]
    if method.run is Run.STREAM:
        source = method.function(actor, *args, **kwargs)
    else:
        source = plain_stream(method.function(actor, *args, **kwargs), blocking=method.blocking)
    producer = letter.producer = letter.origin.producer(letter)
    try:
        await producer.pump(source)
    finally:
        close: Callable[[], Any] | None = getattr(source, "aclose", None)
        if close is not None:
            await close()
    return None


def malformed(error: BaseException, name: str) -> BadArguments:
    """Return what the caller of an actor is told if its arguments cannot be read."""
    text = str(error) if isinstance(error, CodecError) else f"malformed value: {error}"
    return BadArguments(text, actor=name)


async def absorb(task: asyncio.Task[None]) -> None:
    """Take the cancellation of a letter out of its drainer, so that it does not reach the next one."""
    if task.cancelling():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # one that came while the handler ran is only delivered here
        while task.cancelling():
            task.uncancel()
