"""Leaving an ask cancels its handler, and nothing but its handler."""

import asyncio
import random

import pytest

from callboard.actors.current import CURRENT
from callboard.actors.errors import ActorStopped
from callboard.actors.policy import MailboxPolicy

from ..network import until
from .classes import Caller, Gate, Wide
from .pairs import LOCAL, in_time, turns


async def leave(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_queued_message_of_a_caller_that_left_does_not_run(pair):
    ref = await pair.spawn(Gate)
    held = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: pair.actor().seen == [1])
    queued = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(10)]
    await until(lambda: len(pair.cell().mailbox) == 10)
    for task in queued[::2]:
        await leave(task)
    await until(lambda: len(pair.cell().mailbox) == 5)
    pair.actor().gate.set()
    assert await held == 1
    assert await asyncio.gather(*queued[1::2]) == [1, 3, 5, 7, 9]
    assert pair.actor().seen == [1, 1, 3, 5, 7, 9]


async def test_a_running_handler_gets_cancelled_error(pair):
    ref = await pair.spawn(Gate)
    asking = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: pair.actor().seen == [1])
    await leave(asking)
    await until(lambda: pair.actor().cancelled == [1])
    assert await ref.ask(Gate.note, 2) == 2
    assert pair.actor().ended == []


async def test_a_blocking_handler_sees_that_its_caller_left(pair):
    ref = await pair.spawn(Gate)
    asking = asyncio.create_task(ref.ask(Gate.hold_thread, 1))
    await until(lambda: pair.actor().seen == [1])
    next_one = asyncio.create_task(ref.ask(Gate.note, 2))
    await turns(10)
    await leave(asking)
    assert await next_one == 2
    assert pair.actor().flags == [True]  # and it had ended before the next message ran


async def test_an_interleaving_handler_is_cancelled_and_its_credit_comes_back(pair):
    ref = await pair.spawn(Gate, mailbox=MailboxPolicy(messages=2))
    for number in range(20):
        asking = asyncio.create_task(ref.ask(Gate.beside, number))
        await turns(number % 7)
        await leave(asking)
    await pair.quiet()
    assert await in_time(ref.ask(Gate.note, "end")) == "end"


async def test_cancellation_goes_on_to_who_the_handler_asks(pair):
    outer = await pair.spawn(Caller, name="outer.0")
    inner = await pair.spawn(Gate, name="inner.0")
    asking = asyncio.create_task(outer.ask(Caller.pass_on, inner, "hold", 1))
    await until(lambda: pair.actor("inner.0").seen)
    await leave(asking)
    await until(lambda: pair.actor("inner.0").cancelled == [1])
    assert await inner.ask(Gate.note, 2) == 2
    assert await outer.ask(Caller.remaining)


@pytest.mark.parametrize("method", [Gate.absorb, Gate.turn_into_error])
async def test_a_handler_that_resists_its_cancellation_harms_no_other(pair, method):
    ref = await pair.spawn(Gate)
    for number in range(10):
        asking = asyncio.create_task(ref.ask(method, number))
        await until(lambda number=number: pair.actor().seen[-1:] == [number])
        others = [asyncio.create_task(ref.ask(Gate.note, n)) for n in "abc"]
        await turns(number % 4)
        await leave(asking)
        assert await in_time(asyncio.gather(*others)) == ["a", "b", "c"]
        assert pair.actor().cancelled[-1] == number
        (drainer,) = pair.cell().drainers or {None}
        assert drainer is None or drainer.cancelling() == 0


async def test_a_handler_that_cancels_its_own_caller_harms_no_other(pair):
    """The cancellation comes while the handler runs: it must not wait there for the next message."""

    class Reckless(Wide):
        concurrency = 1

        async def harm(self) -> int:
            callers.pop().cancel()
            await turns(3)
            return 1

        def harm_plain(self) -> int:
            callers.pop().cancel()
            return 1

        async def soon(self, number: int) -> int:
            await asyncio.sleep(0)
            return number

    callers: list[asyncio.Task] = []
    ref = await pair.spawn(Reckless)
    for round_ in range(20):
        for method in ("harm", "harm_plain"):
            callers.append(asyncio.create_task(ref.ask(method)))
            asking = callers[0]
            others = [asyncio.create_task(ref.ask(Reckless.soon, n)) for n in range(round_ % 4 + 1)]
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert await asyncio.gather(*others) == list(range(round_ % 4 + 1))


@pytest.mark.parametrize("pair", [LOCAL], indirect=True)
async def test_a_cancellation_that_comes_while_the_handler_runs_does_not_wait_for_the_next_message(pair):
    class Reckless(Gate):
        def leaves(self, fails: bool) -> str:
            letter = CURRENT.get()
            letter.cell.cancel(letter)
            if fails:
                raise ValueError("fails")
            return "left"

        async def soon(self, number: int) -> int:
            await asyncio.sleep(0)
            return number

    ref = await pair.spawn(Reckless)
    for number in range(10):
        asks = [ref.ask(Reckless.leaves, bool(number % 2)), ref.ask(Reckless.soon, number)]
        first, second = await asyncio.gather(*asks, return_exceptions=True)
        assert first == "left" or str(first) == "fails"
        assert second == number


@pytest.mark.parametrize("cls", [Gate, Wide])
async def test_a_cancellation_never_reaches_another_message(pair, cls):
    """A thousand asks that are left at a random moment, each among others that are not."""

    class Worker(cls):
        async def work(self, number: int, steps: int, manner: int) -> int:
            try:
                await turns(steps)
            except asyncio.CancelledError:
                if manner == 1:
                    return number
                if manner == 2:
                    raise ValueError(number) from None
                if manner == 3:
                    await asyncio.sleep(0)
                raise
            return number

        def at_once(self, number: int) -> int:
            return number

        async def items(self, number: int, steps: int):
            for item in range(steps):
                yield number + item
                if item % 2:
                    await asyncio.sleep(0)

    ref = await pair.spawn(Worker)
    rng = random.Random()

    async def stay(number):
        kind = rng.randrange(3)
        if kind == 0:
            assert await ref.ask(Worker.work, number, rng.randrange(4), rng.randrange(4)) == number
        elif kind == 1:
            assert await ref.ask(Worker.at_once, number) == number
        else:
            steps = rng.randrange(6)
            got = [item async for item in ref.stream(Worker.items, number, steps)]
            assert got == list(range(number, number + steps))

    async def go(number):
        if rng.randrange(2):
            await ref.ask(Worker.work, number, rng.randrange(6), rng.randrange(4))
        else:
            async for _ in ref.stream(Worker.items, number, 50):
                pass

    async def one(number):
        leaving = asyncio.create_task(go(number))
        staying = [asyncio.create_task(stay(number + 1000)) for _ in range(2)]
        await turns(rng.randrange(12))
        leaving.cancel()
        await asyncio.wait([leaving])
        assert leaving.cancelled() or leaving.exception() is None
        await asyncio.gather(*staying)

    for first in range(0, 1000, 20):
        await asyncio.gather(*(one(number) for number in range(first, first + 20)))
    await pair.quiet()
    assert all(drainer.cancelling() == 0 for drainer in pair.cell().drainers)


async def test_a_late_answer_is_counted(remote):
    """An answer and its caller's leaving cross on the way."""
    ref = await remote.spawn(Wide)
    asks = [asyncio.create_task(ref.ask(Gate.hold, n)) for n in range(2)]
    await until(lambda: len(remote.actor().seen) == 2)
    call_id = min(remote.near.pending.calls)
    (origin,) = remote.origins()
    letter = origin.calls[call_id]
    await leave(asks[0])
    origin.calls[call_id] = letter  # as if it had answered before it heard of the leaving
    origin.reply(letter, "late")
    await until(lambda: remote.near.statistics()["late_answers"] == 1)
    remote.actor().gate.set()
    assert await asks[1] == 1
    await remote.quiet()


async def test_what_a_caller_that_is_gone_has_asked_is_cancelled(remote):
    ref = await remote.spawn(Wide)
    sequential = await remote.spawn(Gate, name="b.0")
    asks = [asyncio.create_task(ref.ask(Gate.hold, n)) for n in range(5)]
    asks += [asyncio.create_task(ref.ask(Gate.beside, n)) for n in range(5, 8)]
    asks += [asyncio.create_task(ref.ask(Gate.hold_thread, 8))]
    stream = ref.stream(Gate.trickle, 2)
    await anext(stream)
    asks += [asyncio.create_task(sequential.ask(Gate.hold, n)) for n in range(3)]
    actor, other = remote.actor(), remote.actor("b.0")
    await until(lambda: len(actor.seen) == 9 and other.seen == [0])
    await until(lambda: len(remote.cell("b.0").mailbox) == 2)
    await remote.near.close()
    await asyncio.gather(*asks, return_exceptions=True)
    await until(lambda: sorted(map(str, actor.cancelled)) == [*map(str, range(8)), "trickle"])
    await until(lambda: actor.flags == [True])
    await until(lambda: other.cancelled == [0] and not remote.cell("b.0").running)
    assert other.seen == [0]
    assert not len(remote.cell("b.0").mailbox)
    await stream.aclose()


async def test_an_ask_of_an_actor_that_is_stopped_meanwhile_has_one_outcome(pair):
    ref = await pair.spawn(Gate)
    asking = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: pair.actor().seen == [1])
    stopping = asyncio.create_task(pair.stop("a.0", grace_s=0))
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled() or isinstance(asking.exception(), ActorStopped)
    await stopping
