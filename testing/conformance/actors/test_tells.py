"""Tells: accepted or refused at once, handled at most once, in order, and nothing lost silently."""

import asyncio
import itertools

import pytest

from callboard.actors.errors import ActorStopped, ActorUnavailable, EncodeError, MailboxFull, UnknownMethod
from callboard.actors.policy import Executed, MailboxPolicy, StopReason

from ..network import until
from .classes import Echo, Gate, Wide
from .pairs import outcomes, turns


def accepts(ref, number):
    """Whether a tell was accepted."""
    try:
        ref.tell(Gate.note, number)
    except MailboxFull:
        return False
    return True


async def test_a_tell_is_handled_once_and_in_order(pair):
    ref = await pair.spawn(Gate)
    for number in range(1000):
        ref.tell(Gate.note, number)
    await until(lambda: len(pair.actor().seen) == 1000)
    assert pair.actor().seen == list(range(1000))


async def test_a_tell_returns_before_it_is_handled(pair):
    ref = await pair.spawn(Gate)
    assert ref.tell(Gate.hold, 1) is None
    assert pair.actor().seen == []
    await until(lambda: pair.actor().seen == [1])
    pair.actor().gate.set()


async def test_what_a_tell_carries_is_what_it_was_at_the_call(remote):
    ref = await remote.spawn(Gate)
    value = {"n": 1, "big": bytearray(100_000)}
    ref.tell(Gate.note, value)
    value["n"] = 2
    value["big"][0] = 1
    await until(lambda: remote.actor().seen)
    assert remote.actor().seen == [{"n": 1, "big": bytearray(100_000)}]


async def test_a_tell_to_a_full_mailbox_raises_and_everything_accepted_is_handled(pair):
    ref = await pair.spawn(Gate, mailbox=MailboxPolicy(messages=10))
    ref.tell(Gate.hold, "first")
    await until(lambda: pair.actor().seen)
    accepted = itertools.takewhile(lambda number: accepts(ref, number), itertools.count())
    accepted = list(accepted)
    with pytest.raises(MailboxFull, match="use tell_wait") as caught:
        ref.tell(Gate.note, "one more")
    assert (caught.value.executed, caught.value.actor) == (Executed.NEVER, "a.0")
    assert 10 <= len(accepted) <= 21  # the mailbox, and as much again in the process of the sender
    pair.actor().gate.set()
    await until(lambda: len(pair.actor().seen) == len(accepted) + 1)
    assert pair.actor().seen[1:] == accepted
    await until(lambda: not ref._target.pick().full)
    ref.tell(Gate.note, "again")
    await until(lambda: pair.actor().seen[-1] == "again")


async def test_tell_wait_waits_for_room_and_loses_nothing(pair):
    ref = await pair.spawn(Gate, mailbox=MailboxPolicy(messages=4))
    ref.tell(Gate.hold, "first")
    await until(lambda: pair.actor().seen)

    async def send():
        for number in range(200):
            await ref.tell_wait(Gate.note, number)

    sending = asyncio.create_task(send())
    await turns(200)
    assert not sending.done()
    assert len(pair.cell().mailbox) <= 4
    pair.actor().gate.set()
    await sending
    await until(lambda: len(pair.actor().seen) == 201)
    assert pair.actor().seen[1:] == list(range(200))


async def test_tell_wait_gives_up_at_its_deadline(pair):
    ref = (await pair.spawn(Gate, mailbox=MailboxPolicy(messages=1))).options(deadline_s=0.05)
    ref.tell(Gate.hold, "first")
    await until(lambda: pair.actor().seen)
    await until(lambda: not accepts(ref, 1) and pair.cell().mailbox.full)
    with pytest.raises(TimeoutError, match="there was no room in its mailbox in time") as caught:
        await ref.tell_wait(Gate.note, 1)
    assert caught.value.executed is Executed.NEVER


async def test_every_waiting_tell_gets_its_turn_even_if_the_one_before_gives_up(pair):
    """What wakes a waiting sender that leaves at the same moment must wake the next."""
    ref = await pair.spawn(Gate, mailbox=MailboxPolicy(messages=1))
    for round_ in range(30):
        pair.actor().gate.clear()
        await ref.tell_wait(Gate.hold, "hold")
        await until(lambda: pair.cell().running == 1)
        sending = [asyncio.create_task(ref.tell_wait(Gate.note, n)) for n in range(8)]
        await turns(round_ % 5 + 5)
        pair.actor().gate.set()
        await turns(round_ % 7)
        for task in sending[::2]:
            task.cancel()
        await outcomes(*sending)
        assert not any(task.exception() for task in sending if not task.cancelled())
        await pair.quiet()


async def test_a_tell_of_what_cannot_be_told_is_refused(pair):
    ref = await pair.spawn(Gate)
    if not pair.remote:
        for method in ("nothing", "trickle"):
            with pytest.raises(UnknownMethod):
                ref.tell(method, 1)
        return
    ref.tell("nothing", 1)
    ref.tell(Gate.trickle, 1)
    ref.tell(Gate.note, "a")
    await until(lambda: pair.actor().seen == ["a"])
    assert pair.far.dropped_tells == 2
    assert pair.actor().produced == 0


async def test_a_tell_of_a_stream_does_not_block_its_actor(remote):
    """There is nobody who would give it credit."""
    ref = await remote.spawn(Gate)
    ref.tell(Gate.endless)
    assert await ref.options(deadline_s=5).ask(Gate.note, 1) == 1


async def test_a_tell_that_cannot_be_encoded_raises_where_it_is_made(remote):
    ref = await remote.spawn(Gate)
    with pytest.raises(EncodeError, match=r"argument 0.*does not travel"):
        ref.tell(Gate.note, object())
    ref.tell(Gate.note, 1)
    await until(lambda: remote.actor().seen == [1])


async def test_a_tell_with_wrong_arguments_is_counted_and_harms_nobody(pair):
    ref = await pair.spawn(Echo)
    ref.tell("named")
    ref.tell("named", 1, 2, 3)
    assert await ref.ask(Echo.echo, 1) == 1
    assert pair.far.dropped_tells == 2


async def test_a_tell_that_raises_fails_the_actor_and_answers_the_others(pair):
    class Fragile(Gate):
        async def breaks(self) -> None:
            await self.gate.wait()
            raise ValueError("broken")

    failures = []
    pair.far.on_actor_failed = lambda *facts: failures.append(facts)
    ref = await pair.spawn(Fragile)
    actor = pair.actor()
    ref.tell(Fragile.breaks)
    asks = [asyncio.create_task(ref.ask(Fragile.note, n)) for n in range(5)]
    tells = 3
    for number in range(tells):
        ref.tell(Fragile.note, number)
    await until(lambda: len(pair.cell().mailbox) == 5 + tells)
    actor.gate.set()
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert [(type(r), r.executed, r.actor) for r in results] == [(ActorStopped, Executed.NEVER, "a.0")] * 5
    await until(lambda: failures)
    ((name, incarnation, error),) = failures
    assert (name, incarnation, str(error)) == ("a.0", 1, "broken")
    assert actor.seen == []
    assert actor.stops == [StopReason.FAILED]
    assert pair.far.dropped_tells == tells
    with pytest.raises((ActorUnavailable, ActorStopped)) as caught:
        await ref.ask(Fragile.note, 1)
    assert caught.value.executed is Executed.NEVER


async def test_a_failing_tell_cancels_what_runs_beside_it(pair):
    class Fragile(Wide):
        async def breaks(self) -> None:
            raise ValueError("broken")

    ref = await pair.spawn(Fragile)
    running = [asyncio.create_task(ref.ask(Fragile.hold, n)) for n in range(5)]
    actor = pair.actor()
    await until(lambda: len(actor.seen) == 5)
    ref.tell(Fragile.breaks)
    results = await asyncio.gather(*running, return_exceptions=True)
    assert [(type(r), r.executed) for r in results] == [(ActorStopped, Executed.YES)] * 5
    assert sorted(actor.cancelled) == list(range(5))
    await until(lambda: not pair.far.cells)


async def test_tells_that_never_left_because_nobody_was_there_are_counted(remote):
    ref = await remote.spawn(Gate)
    await remote.far.close()
    for number in range(3):
        ref.tell(Gate.note, number)  # the supervisor has not said yet that it is gone
    await until(lambda: remote.near.dropped_tells == 3)
