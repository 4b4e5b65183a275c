"""How each fault on the way to a handler is brought about; each returns what the caller got. See `outcome_table`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from callboard.actors.errors import MailboxFull
from callboard.actors.policy import MailboxPolicy, OnDown, Overflow, StopReason
from callboard.actors.ref import Ref

from ..network import until
from .classes import Caller, Gate
from .pairs import DEADLINES_S, Pair, drain, outcomes

INCARNATION = 3
"""Of every actor here, so that an error that names it cannot have guessed."""
SOON_S = 0.05
"""A deadline that is to pass."""


async def spawn(pair: Pair, cls: type = Gate, **more: Any) -> Ref[Any]:
    """Start an actor in that incarnation."""
    return await pair.spawn(cls, incarnation=INCARNATION, **more)


async def held(pair: Pair, **mailbox: Any) -> Ref[Any]:
    """An actor that handles its first message until its gate opens, and its reference."""
    ref = await spawn(pair, mailbox=MailboxPolicy(**mailbox))
    await ref.tell_wait(Gate.hold, "first")
    await until(lambda: pair.actor().seen == ["first"])
    return ref


async def failure(call: Awaitable[Any]) -> BaseException:
    """Await what fails, and return how."""
    (error,) = await outcomes(call)
    assert isinstance(error, BaseException), f"it did not fail but return {error!r}"
    return error


async def end(stream: Any, items: int, *, before: int = 0) -> BaseException:
    """Read a stream to its end; returns its error, which says how many items there were with those ``before``."""
    read, error = await drain(stream)
    assert error is not None
    assert len(read) == items
    assert getattr(error, "items", items + before) == items + before
    return error


async def has_credit(pair: Pair, ref: Ref[Any], messages: int) -> None:
    """Return when the sender has got back what its first message took."""
    if pair.remote:
        outlet: Any = ref._target.pick()
        await until(lambda: outlet._credit == messages)


def cut(pair: Pair) -> None:
    """End the links to the far node."""
    for origin in pair.origins():
        origin.link.close()


async def queued(pair: Pair, **options: Any) -> asyncio.Task[Any]:
    """An ask that waits in the mailbox."""
    ref = await held(pair)
    asking = asyncio.create_task(ref.options(**options).ask(Gate.note, 1))
    await until(lambda: len(pair.cell().mailbox))
    return asking


async def without_credit(pair: Pair, **options: Any) -> asyncio.Task[Any]:
    """An ask that waits at its sender for credit, behind one in the mailbox."""
    ref = await held(pair, messages=1)
    outlet: Any = ref._target.pick()
    await has_credit(pair, ref, 1)
    ref.tell(Gate.note, "fills the mailbox")
    asking = asyncio.create_task(ref.options(**options).ask(Gate.note, 1))
    await until(lambda: len(outlet._backlog) or asking.done())
    return asking


async def running(pair: Pair) -> asyncio.Task[Any]:
    """An ask whose handler runs."""
    ref = await spawn(pair)
    asking = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: pair.actor().seen == [1])
    return asking


async def streaming(pair: Pair) -> Any:
    """A stream of which two items were read, and its producer waits."""
    ref = await spawn(pair)
    stream = ref.stream(Gate.trickle, 2)
    assert [await anext(stream) for _ in range(2)] == [0, 1]
    return stream


# -- nobody there


async def unknown_name(pair: Pair) -> BaseException:
    await spawn(pair)
    return await failure(pair.near.ref("nobody").ask("note", 1))


async def known_but_down(pair: Pair) -> BaseException:
    ref = await spawn(pair)
    await pair.stop("a.0")
    return await failure(ref.ask(Gate.note, 1))


async def component_down(pair: Pair) -> BaseException:
    await spawn(pair)
    await pair.stop("a.0")
    return await failure(pair.near.ref("a", Gate).ask(Gate.note, 1))


async def never_back(pair: Pair) -> BaseException:
    ref = await spawn(pair)
    await pair.stop("a.0")
    return await failure(ref.options(on_down=OnDown.WAIT, deadline_s=SOON_S).ask(Gate.note, 1))


async def no_route(pair: Pair) -> BaseException:
    ref = await spawn(pair)
    await pair.far.close()
    return await failure(ref.ask(Gate.note, 1))


async def own_node_closed(pair: Pair) -> BaseException:
    ref = await spawn(pair)
    await pair.near.close()
    return await failure(ref.ask(Gate.note, 1))


async def own_node_closes(pair: Pair) -> BaseException:
    asking = await running(pair)
    await pair.near.close(grace_s=0)
    return await failure(asking)


own_node_closes_here = own_node_closes


# -- the link, the process


async def cut_backlog(pair: Pair) -> BaseException:
    asking = await without_credit(pair)
    cut(pair)
    return await failure(asking)


async def cut_queued(pair: Pair) -> BaseException:
    asking = await queued(pair)
    cut(pair)
    return await failure(asking)


async def cut_running(pair: Pair) -> BaseException:
    asking = await running(pair)
    cut(pair)
    return await failure(asking)


async def cut_replied(pair: Pair) -> BaseException:
    class Last(Gate):
        async def last(self) -> int:
            asyncio.get_running_loop().call_soon(
                cut, pair
            )  # before the answer leaves, at the end of this tick
            return 1

    ref = await spawn(pair, Last)
    return await failure(ref.ask(Last.last))


async def cut_stream(pair: Pair) -> BaseException:
    stream = await streaming(pair)
    cut(pair)
    return await end(stream, 0, before=2)


async def node_down(pair: Pair) -> BaseException:
    asking = await running(pair)
    pair.near.node_down(pair.far.id, "its process was killed")
    return await failure(asking)


async def node_down_backlog(pair: Pair) -> BaseException:
    asking = await without_credit(pair)
    pair.near.node_down(pair.far.id, "its process was killed")
    return await failure(asking)


# -- the actor is stopped


async def stop_unheard(pair: Pair) -> None:
    """Stop the actor; its callers do not hear of it from anybody else."""
    await pair.far.stop_actor("a.0", StopReason.COMMANDED, grace_s=0)


async def stopped_before(pair: Pair) -> BaseException:
    ref = await spawn(pair)
    await stop_unheard(pair)
    return await failure(ref.ask(Gate.note, 1))


async def stopped_backlog(pair: Pair) -> BaseException:
    asking = await without_credit(pair)
    await stop_unheard(pair)
    return await failure(asking)


async def stopped_queued(pair: Pair) -> BaseException:
    asking = await queued(pair)
    await stop_unheard(pair)
    return await failure(asking)


async def stopped_running(pair: Pair) -> BaseException:
    asking = await running(pair)
    await stop_unheard(pair)
    return await failure(asking)


async def stopping(pair: Pair) -> BaseException:
    ref = await held(pair)
    route = ref._target.pick()  # a message that was on its way when the stop began
    actor = pair.actor()
    stop = asyncio.create_task(pair.far.stop_actor("a.0", StopReason.COMMANDED))
    await until(lambda: not pair.far.cells)
    _, future = route.ask("note", (1,), {}, 0.0, float("inf"), None)
    error = await failure(future)
    actor.gate.set()
    await stop
    return error


async def failed_queued(pair: Pair) -> BaseException:
    class Fails(Gate):
        async def fail(self) -> None:
            await self.gate.wait()
            raise ValueError("fails")

    ref = await spawn(pair, Fails)
    ref.tell(Fails.fail)
    asking = asyncio.create_task(ref.ask(Gate.note, 1))
    await until(lambda: len(pair.cell().mailbox) == 1 and pair.cell().running)
    pair.actor().gate.set()
    return await failure(asking)


async def stopped_stream(pair: Pair) -> BaseException:
    stream = await streaming(pair)
    await stop_unheard(pair)
    return await end(stream, 0, before=2)


# -- the mailbox is full


async def overflowing(pair: Pair, overflow: Overflow) -> list[BaseException]:
    """The outcomes of two asks of which the first is in the mailbox when the second does not fit."""
    ref = await held(pair, messages=1, overflow=overflow)
    asks = []
    cell, actor = pair.cell(), pair.actor()
    for number in range(2):
        if pair.remote:  # each from a process of its own: credit holds none of them back
            node = await pair.node(f"sender{number}")
            location = pair.far.location("a.0")
            assert location is not None
            node.add_location(location)
            ref = node.ref("a.0", Gate)
        asks.append(asyncio.create_task(ref.ask(Gate.note, number)))
        await until(lambda number=number: len(cell.mailbox) if not number else cell.mailbox.overflows)  # type: ignore[misc]
    actor.gate.set()
    return await outcomes(*asks)


async def full_reject(pair: Pair) -> BaseException:
    return (await overflowing(pair, Overflow.REJECT))[1]


async def full_drop_newest(pair: Pair) -> BaseException:
    return (await overflowing(pair, Overflow.DROP_NEWEST))[1]


async def full_drop_oldest(pair: Pair) -> BaseException:
    return (await overflowing(pair, Overflow.DROP_OLDEST))[0]


async def full_fail(pair: Pair) -> BaseException:
    return (await overflowing(pair, Overflow.FAIL))[1]


async def full_fail_queued(pair: Pair) -> BaseException:
    return (await overflowing(pair, Overflow.FAIL))[0]


async def full_block(pair: Pair) -> BaseException:
    ref = await held(pair, messages=1, overflow=Overflow.BLOCK)
    await has_credit(pair, ref, 1)
    others = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(2 if pair.remote else 1)]
    await until(lambda: ref._target.pick().crowded)
    error = await failure(ref.options(deadline_s=SOON_S).ask(Gate.note, "late"))
    pair.actor().gate.set()
    await outcomes(*others)
    return error


async def crowded(pair: Pair) -> tuple[Ref[Any], BaseException]:
    """Tell until no more is taken; returns the reference, and what the last tell raised."""
    ref = await held(pair, messages=2)
    await has_credit(pair, ref, 2)
    while True:
        try:
            ref.tell(Gate.note, 1)
        except MailboxFull as error:
            return ref, error


async def full_tell(pair: Pair) -> BaseException:
    return (await crowded(pair))[1]


# -- the deadline passes


async def late_sender(pair: Pair) -> BaseException:
    ref, _ = await crowded(pair)
    return await failure(ref.options(deadline_s=SOON_S).ask(Gate.note, 1))


async def late_tell(pair: Pair) -> BaseException:
    ref, _ = await crowded(pair)
    return await failure(ref.options(deadline_s=SOON_S).tell_wait(Gate.note, 1))


async def late_backlog(pair: Pair) -> BaseException:
    return await failure(await without_credit(pair, deadline_s=SOON_S))


async def late_queued(pair: Pair) -> BaseException:
    ref = await held(pair)
    return await failure(ref.options(deadline_s=SOON_S).ask(Gate.note, 1))


late_queued_there = late_queued


async def late_answered(pair: Pair) -> BaseException:
    asking = await queued(pair)
    for letter in pair.letters():
        letter.deadline = 0.0  # as it is where the two clocks go differently
    pair.actor().gate.set()
    return await failure(asking)


async def late_running(pair: Pair) -> BaseException:
    ref = await spawn(pair)
    for seconds in DEADLINES_S:
        error = await failure(ref.options(deadline_s=seconds).ask(Gate.hold, 1))
        if pair.actor().seen:
            break
    return error


async def late_stream(pair: Pair) -> BaseException:
    ref = await spawn(pair)
    for seconds in DEADLINES_S:
        items, error = await drain(ref.options(deadline_s=seconds).stream(Gate.trickle, 2))
        if len(items) == 2:
            break
    assert error is not None
    return error


async def late_nested(pair: Pair) -> BaseException:
    class Impatient(Caller):
        async def ask_briefly(self, ref: Ref[Any]) -> Any:
            return await ref.options(deadline_s=SOON_S).ask("hold", 1)

    outer = await spawn(pair, Impatient, name="outer.0")
    inner = await spawn(pair, name="inner.0")
    return await failure(outer.ask(Impatient.ask_briefly, inner))


async def cancelled(pair: Pair) -> BaseException:
    asking = await running(pair)
    asking.cancel()
    return await failure(asking)
