"""The stash: messages that an actor puts aside, with their callers still waiting."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from callboard.actors.actor import Actor, blocking, interleave
from callboard.actors.errors import ActorStopped, DeadlineExceeded, MailboxFull, StashFull
from callboard.actors.policy import Executed, MailboxPolicy, Overflow
from callboard.actors.ref import Down

from ..network import until
from .classes import Gate
from .pairs import DEADLINES_S, drain, in_time, outcomes, turns


class Door(Gate):
    """Puts everything aside until it is open."""

    stash_limit = 4

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.begun: list[Any] = []

    async def enter(self, number: Any, *, named: int = 0) -> Any:
        self.begun.append(number)
        if not self.is_open:
            self.context.stash()
        self.seen.append(number)
        return [number, named]

    @blocking
    def enter_thread(self, number: Any) -> Any:
        if not self.is_open:
            self.context.stash()
        self.seen.append(number)
        return number

    async def open_up(self) -> None:
        self.is_open = True
        self.context.unstash()

    async def stash_stream(self) -> AsyncIterator[int]:
        self.context.stash()
        yield 1

    @interleave
    async def stash_beside(self) -> None:
        self.context.stash()

    async def stash_in_a_task(self) -> None:
        async def within() -> None:
            self.context.stash()

        await asyncio.create_task(within())

    async def hold_and_stash(self, number: Any) -> None:
        await self.hold(number)
        self.context.stash()

    async def catches(self, number: Any) -> Any:
        """Whoever catches every `Exception` does not catch this."""
        try:
            return await self.enter(number)
        except Exception:
            return "caught"


class WideDoor(Door):
    """The same, many at a time."""

    concurrency = 8


def stashed(pair, count, name="a.0"):
    cell = pair.cell(name)
    return until(lambda: cell.inner is not None and len(cell.inner.stash) == count and not cell.running)


def ask(ref, *args, **kwargs):
    return asyncio.create_task(ref.ask(Door.enter, *args, **kwargs))


async def test_a_stashed_message_is_handled_after_unstash_and_its_caller_has_waited(pair):
    ref = await pair.spawn(Door)
    asked = ask(ref, 1, named=5)
    await stashed(pair, 1)
    assert not asked.done()
    await ref.ask(Door.open_up)
    assert await asked == [1, 5]
    actor = pair.actor()
    assert (actor.begun, actor.seen) == ([1, 1], [1])


async def test_what_was_stashed_comes_ahead_of_what_waits_and_in_its_order(pair):
    for cls, name in ((Door, "a.0"), (WideDoor, "b.0")):
        ref = await pair.spawn(cls, name=name)
        actor = pair.actor(name)
        asks = []
        for number in range(3):
            asks.append(ask(ref, number))
            await stashed(pair, number + 1, name)
        if cls is Door:
            held = asyncio.create_task(ref.ask(Gate.hold, "held"))
            await until(lambda actor=actor: actor.seen == ["held"])
            asks.append(asyncio.create_task(ref.ask(Door.open_up)))
            await until(lambda name=name: len(pair.cell(name).mailbox) == 4)
            asks += [ask(ref, 3), ask(ref, 4)]
            await until(lambda name=name: len(pair.cell(name).mailbox) == 6)
            actor.gate.set()
            asks.append(held)
        else:
            asks += [asyncio.create_task(ref.ask(Door.open_up))]
        await asyncio.gather(*asks)
        assert [n for n in actor.seen if n != "held"] == ([0, 1, 2, 3, 4] if cls is Door else [0, 1, 2])


async def test_tells_and_blocking_methods_can_be_stashed_too(pair):
    ref = await pair.spawn(Door)
    ref.tell(Door.enter, "told")
    await stashed(pair, 1)
    threaded = asyncio.create_task(ref.ask(Door.enter_thread, "threaded"))
    await stashed(pair, 2)
    assert await ref.ask(Door.look) == 0
    caught = asyncio.create_task(ref.ask(Door.catches, "not caught"))
    await stashed(pair, 3)
    await ref.ask(Door.open_up)
    assert await threaded == "threaded"
    assert (await caught)[0] == "not caught"
    assert pair.actor().seen == ["told", "threaded", "not caught"]


async def test_an_order_that_is_unstashed_while_it_is_still_not_time_is_kept(pair):
    ref = await pair.spawn(Door)
    asks = []
    for number in range(3):
        asks.append(ask(ref, number))
        await stashed(pair, number + 1)
    actor = pair.actor()
    actor.context.unstash()  # from outside any handler, and nothing has changed: all are stashed again
    await until(lambda: len(actor.begun) == 6)
    await stashed(pair, 3)
    await ref.ask(Door.open_up)
    await asyncio.gather(*asks)
    assert actor.seen == [0, 1, 2]


async def test_a_full_stash_answers_the_caller_with_the_limit(pair):
    ref = await pair.spawn(Door)
    asks = []
    for number in range(4):
        asks.append(ask(ref, number))
        await stashed(pair, number + 1)
    with pytest.raises(
        StashFull, match="4 messages are stashed, and more may not: stash_limit of Door"
    ) as caught:
        await ref.ask(Door.enter, 4)
    assert (caught.value.executed, caught.value.actor) == (Executed.NEVER, "a.0")
    dropped = pair.far.dropped_tells
    ref.tell(Door.enter, "told")
    await until(lambda: pair.far.dropped_tells == dropped + 1)
    assert await ref.ask(Gate.note, "alive") == "alive"
    await ref.ask(Door.open_up)
    await asyncio.gather(*asks)
    assert pair.actor().seen == ["alive", 0, 1, 2, 3]


async def test_a_caller_that_leaves_takes_its_message_out_of_the_stash(pair):
    ref = await pair.spawn(Door)
    asks = []
    for number in range(4):
        asks.append(ask(ref, number))
        await stashed(pair, number + 1)
    for task in asks[:2]:
        task.cancel()
    await asyncio.wait(asks[:2])
    await stashed(pair, 2)
    assert len(pair.cell().mailbox) == 2
    more = [ask(ref, 4)]
    await stashed(pair, 3)
    await ref.ask(Door.open_up)
    await asyncio.gather(*asks[2:], *more)
    assert pair.actor().seen == [2, 3, 4]
    assert (len(pair.cell().mailbox), pair.cell().mailbox.bytes) == (0, 0)


async def test_a_caller_that_leaves_while_its_message_is_about_to_be_stashed_leaves_nothing(pair):
    class Stubborn(Door):
        async def absorb_and_stash(self, number: Any) -> None:
            await self.absorb(number)
            self.context.stash()

    ref = await pair.spawn(Stubborn)
    actor = pair.actor()
    asked = asyncio.create_task(ref.ask(Stubborn.absorb_and_stash, 1))
    await until(lambda: actor.seen == [1])
    asked.cancel()
    await until(lambda: actor.cancelled == [1])
    assert await ref.ask(Gate.note, 2) == 2
    await stashed(pair, 0)


async def test_the_deadline_of_a_stashed_message_goes_on(pair):
    """The caller's clock says it; a caller in another process cannot know that its message never ran."""
    ref = await pair.spawn(Door)
    for deadline_s in DEADLINES_S:
        (error,) = await outcomes(ref.options(deadline_s=deadline_s).ask(Door.enter, 1))
        assert isinstance(error, DeadlineExceeded)
        assert error.executed is (Executed.MAYBE if pair.remote else Executed.NEVER)
        if pair.actor().begun:
            break
    await stashed(pair, 0)
    await ref.ask(Door.open_up)
    assert await ref.ask(Gate.look) == 0


async def test_a_stop_answers_what_is_stashed(pair):
    ref = await pair.spawn(Door)
    asks = []
    for number in range(3):
        asks.append(ask(ref, number))
        await stashed(pair, number + 1)
    await pair.stop("a.0")
    results = await outcomes(*asks)
    assert [(type(r), r.executed, r.actor) for r in results] == [(ActorStopped, Executed.NEVER, "a.0")] * 3


async def test_what_wants_to_be_stashed_during_a_stop_is_answered(pair):
    ref = await pair.spawn(Door)
    actor = pair.actor()
    asked = asyncio.create_task(ref.ask(Door.hold_and_stash, 1))
    await until(lambda: actor.seen == [1])
    stopping = asyncio.create_task(pair.stop("a.0"))
    await turns(5)
    actor.gate.set()
    (error,) = await outcomes(asked)
    assert (type(error), error.executed) == (ActorStopped, Executed.NEVER)
    await stopping


async def test_stashed_messages_count_in_the_mailbox(pair):
    for overflow in (Overflow.REJECT, Overflow.DROP_OLDEST):
        name = f"{overflow.value}.0"
        ref = await pair.spawn(Door, name=name, mailbox=MailboxPolicy(messages=4, overflow=overflow))
        actor = pair.actor(name)
        asks = []
        for number in range(2):
            asks.append(ask(ref, number))
            await stashed(pair, number + 1, name)
        held = asyncio.create_task(ref.ask(Gate.hold, "held"))
        await until(lambda actor=actor: actor.seen == ["held"])
        cell = pair.cell(name)
        waiting = [asyncio.create_task(ref.ask(Gate.note, n)) for n in "ab"]
        here = 3 if pair.remote else 4  # the last one waits at its sender, whose credit the stashed ones hold
        await until(lambda cell=cell, here=here: len(cell.mailbox) == here)
        await turns(20)
        assert len(cell.mailbox) == here
        if not pair.remote:
            (full,) = await outcomes(ref.options(deadline_s=0.2).ask(Gate.note, "c"))
            assert isinstance(full, MailboxFull if overflow is Overflow.REJECT else DeadlineExceeded)
        actor.gate.set()
        await held
        results = await outcomes(*waiting)
        assert results[-1] == "b"
        await ref.ask(Door.open_up)
        await asyncio.gather(*asks)
        assert (len(cell.mailbox), cell.mailbox.bytes) == (0, 0)


async def test_half_of_what_one_sender_may_have_here_can_be_stashed_and_not_more(pair):
    """So that another message always comes through, and can change what the actor is waiting for."""

    class Greedy(Door):
        stash_limit = 1_000

    for messages, most in ((1, 0), (2, 1), (5, 3), (8, 4)):
        name = f"greedy.{messages}"
        ref = await pair.spawn(Greedy, name=name, mailbox=MailboxPolicy(messages=messages))
        asks = []
        for number in range(most):
            asks.append(ask(ref, number))
            await stashed(pair, number + 1, name)
        with pytest.raises(
            StashFull, match=f"half of the messages that one sender may have here, {messages}"
        ):
            await ref.ask(Door.enter, "more")
        for number in range(3 * messages):
            assert await ref.ask(Gate.note, number) == number
        await ref.ask(Door.open_up)
        await asyncio.gather(*asks)


async def test_stashed_bytes_are_bounded_and_their_credit_comes_back(remote):
    ref = await remote.spawn(Door, mailbox=MailboxPolicy(messages=100, bytes=40_000))
    for _ in range(5):
        asks = [ask(ref, bytes(9_000)) for _ in range(2)]
        await stashed(remote, 2)
        with pytest.raises(StashFull, match=r"half of the bytes that one sender may have here, 40,000"):
            await ref.ask(Door.enter, bytes(9_000))
        for _ in range(10):
            await ref.ask(Gate.note, bytes(15_000))
        await ref.ask(Door.open_up)
        await asyncio.gather(*asks)
        remote.actor().is_open = False
    assert (len(remote.cell().mailbox), remote.cell().mailbox.bytes) == (0, 0)


async def test_no_credit_is_lost_by_stashing_and_unstashing(pair):
    ref = await pair.spawn(WideDoor, mailbox=MailboxPolicy(messages=8))
    actor = pair.actor()
    for round_ in range(20):
        actor.is_open = False
        asks = [ask(ref, number) for number in range(4)]
        await stashed(pair, 4)
        if round_ % 2:
            asks[0].cancel()
            await asyncio.wait(asks[:1])
            await stashed(pair, 3)
        for number in range(8):
            await ref.ask(Gate.note, number)
        await ref.ask(Door.open_up)
        await outcomes(*asks)
    results = await in_time(asyncio.gather(*(ref.ask(Gate.note, n) for n in range(8))))
    assert results == list(range(8))
    assert (len(pair.cell().mailbox), pair.cell().mailbox.bytes) == (0, 0)


async def test_what_cannot_be_stashed_says_why(pair):
    ref = await pair.spawn(Door)
    _, error = await drain(ref.stream(Door.stash_stream))
    assert "is a stream, which cannot be stashed" in str(error)
    with pytest.raises(RuntimeError, match="interleaves, so it never waits"):
        await ref.ask(Door.stash_beside)
    with pytest.raises(RuntimeError, match="no message is being handled"):
        await ref.ask(Door.stash_in_a_task)
    with pytest.raises(RuntimeError, match="no message is being handled"):
        pair.actor().context.stash()
    await ref.ask(Door.open_up)  # an empty stash


async def test_a_timer_s_message_can_be_stashed_and_is_cancelled_there(pair):
    await pair.spawn(Door)
    actor = pair.actor()
    actor.context.start_timer("one", 0, Door.enter, 1)
    await stashed(pair, 1)
    actor.context.start_timer("two", 0, Door.enter, 2)
    await stashed(pair, 2)
    assert actor.context.cancel_timer("one")
    await stashed(pair, 1)
    actor.is_open = True
    actor.context.unstash()
    await until(lambda: actor.seen == [2])


async def test_a_down_goes_before_what_is_unstashed(pair):
    class Watching(Door):
        async def on_down(self, down: Down) -> None:
            self.seen.append(down.name)

        async def hold_and_open(self) -> None:
            await self.hold("held")
            await self.open_up()

    await pair.near.spawn(Watching, name="w.0")
    ref, actor = pair.near.ref("w.0", Watching), pair.actor("w.0")
    target = await pair.spawn(Actor)
    actor.context.watch(target)
    asked = ask(ref, 1)
    await stashed(pair, 1, "w.0")
    held = asyncio.create_task(ref.ask(Watching.hold_and_open))
    await until(lambda: actor.seen == ["held"])
    waiting = asyncio.create_task(ref.ask(Gate.note, 2))
    await until(lambda: len(pair.cell("w.0").mailbox) == 2)
    await pair.stop("a.0")
    await until(lambda: len(pair.cell("w.0").mailbox) == 3)
    actor.gate.set()
    await asyncio.gather(asked, held, waiting)
    assert actor.seen == ["held", "a.0", 1, 2]
