"""A fast sender on a slow actor: memory stays bounded, nothing is lost, and the sender is told or waits."""

import asyncio
import random

import pytest

from callboard.actors.errors import ActorStopped, ActorUnavailable, MailboxFull
from callboard.actors.policy import Executed, MailboxPolicy, Overflow, StopReason

from ..network import PATIENCE_S, until
from .classes import Gate, Wide
from .pairs import in_time, outcomes, turns

KIB = 1024


async def held(pair, **mailbox):
    """An actor that handles its first message for as long as the gate is closed, and its reference."""
    ref = await pair.spawn(Gate, mailbox=MailboxPolicy(**mailbox))
    await ref.tell_wait(Gate.hold, "first")
    await until(lambda: pair.actor().seen == ["first"])
    return ref


def notes(pair):
    return [value for value in pair.actor().seen if value != "first"]


async def test_asks_beyond_the_mailbox_wait_at_their_sender_and_all_are_answered(remote):
    ref = await held(remote, messages=8)
    asks = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(500)]
    await turns(100)
    assert len(remote.cell().mailbox) <= 8
    outlet = ref._target.pick()
    assert len(outlet._backlog) <= 8  # the others wait as tasks of their own
    remote.actor().gate.set()
    assert await asyncio.gather(*asks) == list(range(500))
    assert notes(remote) == list(range(500))
    assert outlet.idle


async def test_who_comes_later_does_not_go_before_those_who_wait(pair):
    ref = await held(pair, messages=4, overflow=Overflow.BLOCK)
    asks = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(50)]
    await turns(20)
    pair.actor().gate.set()
    for number in range(50, 400):  # while places become free
        asks.append(asyncio.create_task(ref.ask(Gate.note, number)))
        if not number % 3:
            await asyncio.sleep(0)
    assert await in_time(asyncio.gather(*asks)) == list(range(400))
    assert notes(pair) == list(range(400))


async def test_a_link_on_which_something_waits_for_credit_is_not_idle(remote):
    """The pool would close it, and lose what waits."""
    ref = await held(remote, messages=1)
    await until(lambda: ref._target.pick()._credit == 1)
    (peer,) = remote.near._peers.values()
    assert remote.near.link_idle(peer.link)
    ref.tell(Gate.note, 1)
    ref.tell(Gate.note, 2)
    await until(lambda: remote.cell().mailbox.full)
    assert not remote.near.link_idle(peer.link)
    remote.actor().gate.set()
    await until(lambda: notes(remote) == [1, 2] and remote.near.link_idle(peer.link))


async def test_large_messages_are_bounded_by_bytes(remote):
    ref = await held(remote, messages=1000, bytes=256 * KIB)
    asks = [asyncio.create_task(ref.ask(Gate.note, bytes(40 * KIB))) for _ in range(50)]
    await turns(200)
    assert remote.cell().mailbox.bytes <= 256 * KIB + 40 * KIB
    assert len(remote.cell().mailbox) <= 8
    remote.actor().gate.set()
    assert len(await asyncio.gather(*asks)) == 50


async def test_credit_of_bytes_comes_back_to_the_last_one(remote):
    """A few bytes lost per message would stop the way after as many as fit the window."""
    ref = await remote.spawn(Gate, mailbox=MailboxPolicy(bytes=64 * KIB))
    outlet = ref._target.pick()
    for round_ in range(12):
        for size in random.choices((0, 10, 300, 3000, 70_000), k=100):
            await ref.tell_wait("note" if round_ % 4 else "no such message", bytes(size))
        await ref.ask(Gate.note, "end")
        remote.actor().seen.clear()
    (inlet,) = (inlet for origin in remote.origins() for inlet in origin.inlets.values())
    assert outlet._credit + inlet.count == outlet.location.window
    assert outlet._bytes + inlet.bytes == outlet.location.window_bytes


async def test_credit_comes_back_for_messages_that_were_cancelled_expired_or_refused(remote):
    ref = await held(remote, messages=50)
    outlet = ref._target.pick()
    for kind in range(200):
        message = asyncio.create_task(ref.options(deadline_s=0.01 if kind % 3 else 5).ask(Gate.note, kind))
        await turns(kind % 5)
        if not kind % 3:
            message.cancel()
        await asyncio.gather(message, return_exceptions=True)
    remote.actor().gate.set()
    await remote.quiet()
    (inlet,) = (inlet for origin in remote.origins() for inlet in origin.inlets.values())
    await until(lambda: outlet._credit + inlet.count == 50)
    assert await ref.ask(Gate.note, "end") == "end"


async def test_who_waited_for_room_is_handled_although_an_ask_was_faster(pair):
    """It is told that its message is accepted, and cannot be told any more that it was not."""
    await held(pair, messages=1)
    here = pair.far.ref("a.0", Gate)
    queued = asyncio.create_task(here.ask(Gate.note, "queued"))
    await until(lambda: len(pair.cell().mailbox) == 1)
    patient = asyncio.create_task(here.tell_wait(Gate.note, "patient"))
    await until(lambda: pair.cell().rooms)
    pair.actor().gate.set()
    fast = asyncio.create_task(here.ask(Gate.note, "fast"))  # runs before the one that is let in
    assert await outcomes(queued, fast, patient) == ["queued", "fast", None]
    assert await here.ask(Gate.note, "end") == "end"
    assert sorted(notes(pair)) == ["end", "fast", "patient", "queued"]


async def test_a_sender_that_dies_while_its_credit_is_withheld_leaves_the_way_open_for_others(remote):
    ref = await held(remote, messages=2)
    here = remote.far.ref("a.0", Gate)
    local = asyncio.create_task(here.ask(Gate.note, "local"))
    await until(lambda: len(remote.cell().mailbox) == 1)
    asked = asyncio.create_task(ref.ask(Gate.note, "asked"))
    await turns(2)
    ref.tell(Gate.note, "told")
    await until(lambda: len(remote.cell().mailbox) == 3)
    await remote.near.close()  # takes the ask out of a mailbox that stays full
    await asyncio.gather(asked, return_exceptions=True)
    await until(lambda: len(remote.cell().mailbox) == 2)
    remote.actor().gate.set()
    assert await local == "local"
    await until(lambda: notes(remote) == ["local", "told"])
    here.tell(Gate.note, "end")
    await until(lambda: notes(remote) == ["local", "told", "end"])


async def test_a_sender_whose_credit_was_withheld_gets_it_while_others_keep_the_mailbox_busy(remote):
    """The mailbox need not run empty for it."""
    third = await remote.node("third")
    await remote.spawn(Gate, mailbox=MailboxPolicy(messages=8))
    remote.publish("a.0")
    await remote.near.ref("a.0").tell_wait("hold", "first")
    await until(lambda: remote.actor().seen == ["first"])
    near, other = remote.near.ref("a.0", Gate), third.ref("a.0", Gate)
    waiting = [asyncio.create_task(near.ask(Gate.note, n)) for n in range(30)]
    going = True

    async def keep_busy():
        while going:
            await asyncio.gather(*(other.ask(Gate.note, "busy") for _ in range(20)), return_exceptions=True)

    async def keep_busy_within():
        here = remote.far.ref("a.0", Gate)
        while going:
            try:
                await here.tell_wait(Gate.note, "local")
            except MailboxFull:
                await asyncio.sleep(0)

    busy = [asyncio.create_task(keep_busy()) for _ in range(2)] + [asyncio.create_task(keep_busy_within())]
    await turns(50)
    remote.actor().gate.set()
    done, late = await asyncio.wait(waiting, timeout=PATIENCE_S)
    going = False
    await asyncio.gather(*busy)
    assert not late
    results = [task.exception() or task.result() for task in done]
    assert all(isinstance(r, int | MailboxFull) for r in results)


async def test_a_local_sender_is_told_of_the_room_that_remote_messages_leave(remote):
    ref = await held(remote, messages=2)
    remote_asks = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(2)]
    await until(lambda: remote.cell().mailbox.full)
    waiting = asyncio.create_task(remote.far.ref("a.0", Gate).tell_wait(Gate.note, "local"))
    await turns(5)
    assert not waiting.done()
    remote.actor().gate.set()
    await in_time(waiting)
    assert await asyncio.gather(*remote_asks) == [0, 1]
    await until(lambda: "local" in notes(remote))


async def test_a_waiting_sender_is_told_of_the_room_that_a_cancelled_message_leaves(pair):
    ref = await held(pair, messages=2)
    asks = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(4 if pair.remote else 2)]
    await until(lambda: pair.cell().mailbox.full)
    await turns(10)
    waiting = asyncio.create_task(ref.tell_wait(Gate.note, "told"))
    await turns(10)
    assert not waiting.done()
    asks[0].cancel()
    asks[1].cancel()
    await in_time(waiting)
    pair.actor().gate.set()
    await asyncio.gather(*asks, return_exceptions=True)
    await until(lambda: "told" in notes(pair))


# -- what a full mailbox does, as its senders see it


async def fill(pair, ref, count):
    """Asks from a second process each, so that credit does not hold them back; returns the tasks in order."""
    asks = []
    for number in range(count):
        if pair.remote:
            node = await pair.node(f"sender{number}")
            node.add_location(pair.far.location("a.0"))
            ref = node.ref("a.0", Gate)
        asks.append(asyncio.create_task(ref.ask(Gate.note, number)))
        cell, before = pair.cell(), pair.cell().mailbox.overflows + len(pair.cell().mailbox)
        await until(
            lambda before=before, cell=cell: (
                cell.mailbox.overflows + len(cell.mailbox) > before or asks[-1].done()
            )
        )
    return asks


async def test_reject_refuses_the_new_message(pair):
    ref = await held(pair, messages=3)
    asks = await fill(pair, ref, 5)
    pair.actor().gate.set()
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert results[:3] == [0, 1, 2]
    assert [(type(r), r.executed, r.actor) for r in results[3:]] == [(MailboxFull, Executed.NEVER, "a.0")] * 2
    assert notes(pair) == [0, 1, 2]
    assert "3 messages" in str(results[3])


async def test_drop_newest_refuses_the_new_message(pair):
    ref = await held(pair, messages=3, overflow=Overflow.DROP_NEWEST)
    asks = await fill(pair, ref, 5)
    pair.actor().gate.set()
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert results[:3] == [0, 1, 2]
    assert [type(r) for r in results[3:]] == [MailboxFull] * 2
    dropped = pair.far.dropped_tells
    if not pair.remote:
        pair.actor().gate.clear()
        ref.tell(Gate.hold, "first")
        await until(lambda: pair.cell().running)
        for number in range(5):
            ref.tell(Gate.note, number)  # accepted, and counted where it is dropped
        assert pair.far.dropped_tells == dropped + 2
        pair.actor().gate.set()


async def test_drop_oldest_makes_room_for_the_new_message(pair):
    ref = await held(pair, messages=3, overflow=Overflow.DROP_OLDEST)
    if pair.remote:
        asks = await fill(pair, ref, 5)
    else:
        asks = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(5)]
        await turns(5)
    pair.actor().gate.set()
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert [type(r) for r in results[:2]] == [MailboxFull] * 2
    assert results[2:] == [2, 3, 4]
    assert notes(pair) == [2, 3, 4]


async def test_block_lets_the_new_message_wait(pair):
    ref = await held(pair, messages=3, overflow=Overflow.BLOCK)
    asks = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(20)]
    await turns(50)
    assert not any(ask.done() for ask in asks)
    pair.actor().gate.set()
    assert await asyncio.gather(*asks) == list(range(20))
    assert notes(pair) == list(range(20))


async def test_block_ends_at_the_deadline_and_runs_nothing(pair):
    ref = await held(pair, messages=1, overflow=Overflow.BLOCK)
    asks = [asyncio.create_task(ref.options(deadline_s=0.05).ask(Gate.note, n)) for n in range(6)]
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert all(isinstance(result, TimeoutError) for result in results)
    await ref.ask(Gate.look) if pair.remote else None  # by now the far side knows
    pair.actor().gate.set()
    assert await ref.ask(Gate.note, "end") == "end"
    assert notes(pair) == ["end"]


async def test_fail_fails_the_actor(pair):
    failures = []
    pair.far.on_actor_failed = lambda *facts: failures.append(facts)
    ref = await held(pair, messages=3, overflow=Overflow.FAIL)
    actor = pair.actor()
    if pair.remote:
        asks = await fill(pair, ref, 4)
    else:
        asks = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(4)]
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert [type(r) for r in results] == [ActorStopped] * 3 + [MailboxFull]
    await until(lambda: failures)
    assert isinstance(failures[0][2], MailboxFull)
    assert actor.stops == [StopReason.FAILED]
    assert actor.seen == ["first"]


async def test_a_tell_that_was_accepted_is_handled_although_the_mailbox_overflows(remote):
    """Its sender has been told that it is accepted: it has credit."""
    await held(remote, messages=2)
    refs = []
    for number in range(3):
        node = await remote.node(f"sender{number}")
        node.add_location(remote.far.location("a.0"))
        refs.append(node.ref("a.0", Gate))
    for number, ref in enumerate(refs):
        ref.tell(Gate.note, (number, 0))
        ref.tell(Gate.note, (number, 1))
    await until(lambda: len(remote.cell().mailbox) == 6)
    remote.actor().gate.set()
    await until(lambda: len(notes(remote)) == 6)
    for number in range(3):
        assert [n for n in notes(remote) if n[0] == number] == [(number, 0), (number, 1)]


# -- when the way ends


async def test_what_waits_for_credit_fails_when_the_actor_stops(remote):
    ref = await held(remote, messages=4)
    asks = [asyncio.create_task(ref.options(retries=0).ask(Gate.note, n)) for n in range(20)]
    tells = asyncio.create_task(ref.tell_wait(Gate.note, "told"))
    await turns(20)
    await remote.stop("a.0", grace_s=0)
    results = await outcomes(*asks)
    assert all(isinstance(r, ActorStopped | ActorUnavailable) for r in results)
    assert {r.executed for r in results} == {Executed.NEVER}
    with pytest.raises(ActorUnavailable):
        await in_time(tells)


async def test_what_waits_for_credit_is_refused_even_if_nobody_says_that_the_actor_stopped(remote):
    ref = await held(remote, messages=4)
    asks = [asyncio.create_task(ref.options(retries=0).ask(Gate.note, n)) for n in range(8)]
    await turns(20)
    await remote.far.stop_actor("a.0", StopReason.COMMANDED, grace_s=0)
    results = await outcomes(*asks)
    assert {(type(r), r.executed) for r in results} == {(ActorStopped, Executed.NEVER)}


async def test_what_waits_for_credit_fails_when_the_link_breaks(remote):
    ref = await held(remote, messages=4)
    asks = [asyncio.create_task(ref.options(retries=0).ask(Gate.note, n)) for n in range(8)]
    await until(lambda: len(remote.cell().mailbox))
    await turns(20)
    sent = len(remote.cell().mailbox)
    for origin in remote.origins():
        origin.link.close()
    await asyncio.wait(asks[: sent + 4], timeout=PATIENCE_S)
    remote.actor().gate.set()
    results = await outcomes(*asks)
    unavailable = [(type(r), r.executed) for r in results[: sent + 4]]
    assert unavailable[:sent] == [(ActorUnavailable, Executed.MAYBE)] * sent
    # What waited for credit was never sent; who waited for a place after it dials again.
    assert unavailable[sent:] == [(ActorUnavailable, Executed.NEVER)] * 4
    assert results[sent + 4 :] == notes(remote) == list(range(sent + 4, 8))


async def test_a_flood_of_tells_keeps_memory_bounded_and_loses_nothing(pair):
    class Slow(Wide):
        concurrency = 1

        async def take(self, number: int) -> None:
            self.seen.append(number)
            if not number % 50:
                await asyncio.sleep(0)

    ref = await pair.spawn(Slow, mailbox=MailboxPolicy(messages=100))
    most = 0
    for number in range(20_000):
        await ref.tell_wait(Slow.take, number)
        most = max(most, len(pair.cell().mailbox))
    await until(lambda: len(pair.actor().seen) == 20_000)
    assert pair.actor().seen == list(range(20_000))
    assert most <= 100
    assert pair.far.dropped_tells == 0
