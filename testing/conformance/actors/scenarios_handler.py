"""How each fault in a value, a call or a handler is brought about. See `outcome_table` and `scenarios_delivery`."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec

from callboard.actors.envelope import ERROR
from callboard.actors.errors import Overloaded
from callboard.actors.policy import Executed
from callboard.actors.ref import Ref
from callboard.transports.errors import ConfigError
from callboard.transports.settings import SMALLEST_LIMIT_BYTES

from ..network import until
from .classes import Caller, Echo, Gate
from .pairs import Pair
from .scenarios_delivery import INCARNATION, end, failure, queued, running, spawn

LARGE = "x" * 2 * SMALLEST_LIMIT_BYTES
MODULE = "callboard_gone_module"


class Interrupt(BaseException):
    """Not meant for handlers."""


class Faulty(Echo):
    """Returns, yields or raises what is asked for."""

    async def result(self, kind: str) -> Any:
        return value(kind)

    async def item(self, kind: str) -> AsyncIterator[Any]:
        yield "first"
        yield value(kind)

    async def fail(self, kind: str) -> None:
        raise exception(kind)

    async def fail_later(self, kind: str) -> AsyncIterator[Any]:
        yield "first"
        raise exception(kind)


def value(kind: str) -> Any:
    """What cannot travel, or not arrive."""
    if kind == "gone":
        asyncio.get_running_loop().call_soon(sys.modules.pop, MODULE, None)  # before anybody has received it
        return gone()
    return LARGE if kind == "large" else object()


def gone() -> Any:
    """An object of a class that can be found as long as its module is not taken away."""
    module = sys.modules[MODULE] = types.ModuleType(MODULE)
    exec("import dataclasses\n@dataclasses.dataclass\nclass Gone:\n    number: int = 1", module.__dict__)
    return module.Gone()


def exception(kind: str) -> BaseException:
    """What is raised."""

    class Local(Exception):
        """Of a function, so nobody can look it up."""

    made: dict[str, BaseException] = {
        "known": ValueError("a value"),
        "unknown": Local("local"),
        "object": ValueError(object()),
        "large": ValueError(LARGE),
        "base": Interrupt("interrupt"),
        "cancelled": asyncio.CancelledError(),
        "overloaded": Overloaded("no more", executed=Executed.MAYBE),
        "config": ConfigError("a setting is wrong"),
    }
    return made[kind]


async def small(pair: Pair) -> Ref[Any]:
    """An actor on a node with the smallest limit of a message."""
    limit = SMALLEST_LIMIT_BYTES
    node = await pair.node("small", max_message_bytes=limit, shrink_message_bytes=limit)
    return await spawn(pair, Faulty, on=node)


# -- a value cannot travel


async def encode_argument(pair: Pair) -> BaseException:
    ref = await spawn(pair, Faulty)
    return await failure(ref.ask(Echo.echo, object()))


async def encode_result(pair: Pair) -> BaseException:
    ref = await spawn(pair, Faulty)
    return await failure(ref.ask(Faulty.result, "object"))


async def encode_item(pair: Pair) -> BaseException:
    ref = await spawn(pair, Faulty)
    return await end(ref.stream(Faulty.item, "object"), 1)


async def encode_error(pair: Pair) -> BaseException:
    ref = await spawn(pair, Faulty)
    return await failure(ref.ask(Faulty.fail, "object"))


async def large_argument(pair: Pair) -> BaseException:
    ref = await small(pair)
    await ref.ask(Echo.echo, 1)  # now the caller knows the limit
    return await failure(ref.ask(Echo.echo, LARGE))


async def large_argument_late(pair: Pair) -> BaseException:
    return await failure((await small(pair)).ask(Echo.echo, LARGE))


async def large_result(pair: Pair) -> BaseException:
    return await failure((await small(pair)).ask(Faulty.result, "large"))


async def large_item(pair: Pair) -> BaseException:
    return await end((await small(pair)).stream(Faulty.item, "large"), 1)


async def large_error(pair: Pair) -> BaseException:
    return await failure((await small(pair)).ask(Faulty.fail, "large"))


async def decode_argument(pair: Pair) -> BaseException:
    holding = await queued(pair)
    asking = asyncio.create_task(pair.near.ref("a.0", Gate).ask(Gate.note, gone()))
    await until(lambda: len(pair.cell().mailbox) == 2)
    del sys.modules[MODULE]
    pair.actor().gate.set()
    await holding
    return await failure(asking)


async def decode_result(pair: Pair) -> BaseException:
    ref = await spawn(pair, Faulty)
    return await failure(ref.ask(Faulty.result, "gone"))


async def decode_item(pair: Pair) -> BaseException:
    ref = await spawn(pair, Faulty)
    stream = ref.stream(Faulty.item, "gone")
    with suppress(StopAsyncIteration):
        while True:
            try:
                await anext(stream)
            except Exception as error:
                return error
    raise AssertionError("it did not fail")


async def decode_error(pair: Pair) -> BaseException:
    asking = await running(pair)
    (origin,) = pair.origins()
    (call_id,) = origin.calls
    unreadable = msgspec.Raw(b"\xd4\x63\x00")  # an extension that nobody knows
    origin.link.send((msgspec.msgpack.encode([(ERROR, call_id, unreadable)]),))
    return await failure(asking)


# -- the call is wrong


async def wrong_arguments(pair: Pair) -> BaseException:
    return await failure((await spawn(pair, Echo)).ask("named", "one"))


async def unknown_method(pair: Pair) -> BaseException:
    return await failure((await spawn(pair, Echo)).ask("ecko", 1))


async def ask_of_stream(pair: Pair) -> BaseException:
    return await failure((await spawn(pair, Echo)).ask("count", 1))


async def stream_of_ask(pair: Pair) -> BaseException:
    return await end((await spawn(pair, Echo)).stream("echo", 1), 0)


class Curious(Caller):
    """Keeps the error of what it asks."""

    async def attempt(self, ref: Ref[Any]) -> None:
        try:
            await ref.ask(Caller.remaining)
        except Exception as error:
            self.errors.append(error)


async def self_ask(pair: Pair) -> BaseException:
    ref = await spawn(pair, Curious)
    await ref.ask(Curious.attempt, ref)
    (error,) = pair.actor().errors
    assert isinstance(error, BaseException)
    return error


async def cycle(pair: Pair) -> BaseException:
    first, second = await spawn(pair, Curious), await spawn(pair, Curious, name="b.0")
    await first.ask(Caller.pass_on, second, "attempt", first)
    (error,) = pair.actor("b.0").errors
    assert isinstance(error, BaseException)
    return error


async def cycle_reported(pair: Pair) -> BaseException:
    first, second = await spawn(pair, Caller), await spawn(pair, Caller, name="b.0")
    return await failure(first.ask(Caller.pass_on, second, "pass_on", first, "remaining"))


# -- the handler raises


async def raised(pair: Pair, kind: str) -> BaseException:
    return await failure((await spawn(pair, Faulty)).ask(Faulty.fail, kind))


async def raises_known(pair: Pair) -> BaseException:
    return await raised(pair, "known")


async def raises_unknown(pair: Pair) -> BaseException:
    return await raised(pair, "unknown")


async def raises_base(pair: Pair) -> BaseException:
    # It ends a task of the runtime, and is the event loop's to report.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    return await raised(pair, "base")


async def raises_cancelled(pair: Pair) -> BaseException:
    return await raised(pair, "cancelled")


async def raises_ours(pair: Pair) -> BaseException:
    return await raised(pair, "overloaded")


async def raises_other_ours(pair: Pair) -> BaseException:
    return await raised(pair, "config")


async def raises_in_stream(pair: Pair) -> BaseException:
    return await end((await spawn(pair, Faulty)).stream(Faulty.fail_later, "known"), 1)


async def nested(pair: Pair) -> BaseException:
    outer = await spawn(pair, Caller)
    return await failure(outer.ask(Caller.pass_on, pair.near.ref("nobody"), "note", 1))


async def nested_value(pair: Pair) -> BaseException:
    outer = await spawn(pair, Caller, name="outer.0")
    inner = await pair.spawn(Faulty, name="inner.0", incarnation=INCARNATION + 1)
    return await failure(outer.ask(Caller.pass_on, inner, "fail", "known"))
