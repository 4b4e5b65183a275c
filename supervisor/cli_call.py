"""``callboard call``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from callboard.transports.errors import CallboardError

from .cli_errors import echo_json, reporting, system_options


@click.command()
@click.argument("target", metavar="ACTOR.METHOD")
@click.argument("arguments", metavar="[JSON]", default="[]")
@system_options
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds until the deadline.",
)
@click.option(
    "--stream", is_flag=True, help="The method streams: print an item per line. Usually found out by itself."
)
@reporting
def call(
    target: str,
    arguments: str,
    namespace: str | None,
    runtime_dir: Path | None,
    timeout_s: float,
    stream: bool,
) -> None:
    """Call a method of an actor in a running system and print its answer as JSON.

    JSON is an array of arguments, an object of arguments by name, or a single argument. Objects in the answer are
    printed as their fields.

    \b
    Examples:
      callboard call router.load
      callboard call counter.add '[5]'
      callboard call worker.0.generate '{"request": {"request_id": "1", "model": "simulated", "prompt": "hi"}}'

    \b
    Exit codes: 0 answered, 1 the call failed, 2 wrong usage, 3 no system runs, 4 deadline exceeded.
    """
    name, dot, method = target.rpartition(".")
    if not dot or not name or not method:
        raise click.UsageError(f"{target!r} is not ACTOR.METHOD, such as worker.load or worker.0.load")
    args, kwargs = _arguments(arguments)
    asyncio.run(_call(name, method, args, kwargs, namespace, runtime_dir, timeout_s, stream))


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    import orjson

    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"the arguments are not JSON: {error}") from None
    if isinstance(value, dict):
        return [], value
    return (value, {}) if isinstance(value, list) else ([value], {})


async def _call(
    name: str,
    method: str,
    args: list[Any],
    kwargs: dict[str, Any],
    namespace: str | None,
    runtime_dir: Path | None,
    timeout_s: float,
    stream: bool,
) -> None:
    from callboard.actors.errors import UnknownMethod
    from callboard.actors.ref import Ref

    from .connection import Connection

    async with await Connection.open(
        namespace=namespace, runtime_dir=runtime_dir, plain_objects=True
    ) as connection:
        ref: Ref[Any] = connection.ref(name).options(deadline_s=timeout_s)
        if not stream:
            try:
                with handler_errors():
                    answer = await ref.ask(method, *args, **kwargs)
            except UnknownMethod as error:
                if "stream" not in error.why:
                    raise
            else:
                echo_json(answer)
                return
        async with ref.stream(method, *args, **kwargs) as items:
            while True:
                try:
                    with handler_errors():
                        item = await anext(items)
                except StopAsyncIteration:
                    return
                echo_json(item)


@contextmanager
def handler_errors() -> Iterator[None]:
    """What a handler raised is the answer of the call, not a mistake of this program."""
    from callboard.actors.errors import RemoteError

    try:
        yield
    except (CallboardError, StopAsyncIteration):
        raise
    except Exception as error:
        kind = type(error)
        notes = "\n".join(getattr(error, "__notes__", ()))
        text = f"{error}\n{notes}".rstrip()
        raise RemoteError(text, kind=f"{kind.__module__}:{kind.__qualname__}") from None
