"""Messages that run beside the queue: as many as the mailbox holds, whatever waits in it."""

import asyncio

import pytest

from callboard.actors.errors import ActorStopped, MailboxFull
from callboard.actors.policy import Executed, MailboxPolicy, Overflow

from ..network import until
from .classes import Gate
from .pairs import LOCAL, in_time, outcomes, turns


async def beside(pair, count, ref=None, **mailbox):
    """An actor, and as many asks that run beside its queue, in order."""
    ref = ref or await pair.spawn(Gate, mailbox=MailboxPolicy(**mailbox))
    asks = [asyncio.create_task(ref.ask(Gate.beside, n)) for n in range(count)]
    return ref, asks


async def test_no_more_interleaving_messages_run_than_the_mailbox_holds(pair):
    ref, asks = await beside(pair, 50, messages=8)
    await until(lambda: pair.cell().running == 8)
    await turns(50)
    assert pair.cell().running == 8
    pair.actor().gate.set()
    results = await outcomes(*asks)
    if pair.remote:  # what has no credit waits at its sender
        assert results == list(range(50))
    else:
        assert results[:8] == list(range(8))
        assert {(type(r), r.executed, r.actor) for r in results[8:]} == {(MailboxFull, Executed.NEVER, "a.0")}
    await pair.quiet()
    assert await in_time(ref.ask(Gate.beside, "again")) == "again"


async def test_an_interleaving_message_comes_through_although_the_queue_is_full(pair):
    ref = await pair.spawn(Gate, mailbox=MailboxPolicy(messages=2))
    held = asyncio.create_task(ref.ask(Gate.hold, "first"))
    await until(lambda: pair.actor().seen)
    queued = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(2)]
    await until(lambda: pair.cell().mailbox.full)
    asks_too = ref
    if pair.remote:  # whose credit is not used up
        other = await pair.node("other")
        other.add_location(pair.far.location("a.0"))
        asks_too = other.ref("a.0", Gate)
    assert await in_time(asks_too.ask(Gate.look)) == 1
    pair.actor().gate.set()
    assert await outcomes(held, *queued) == ["first", 0, 1]
    await pair.quiet()
    assert pair.cell().mailbox.lent == 0


async def test_who_waits_for_a_place_gets_that_of_an_interleaving_message_that_ends(pair):
    ref, asks = await beside(pair, 2, messages=2)
    await until(lambda: pair.cell().running == 2)
    more = [asyncio.create_task(ref.tell_wait(Gate.note, n)) for n in range(5)]
    await turns(20)
    assert not pair.actor().seen[2:]
    asks[0].cancel()
    await until(lambda: pair.actor().seen[2:] == list(range(5)))
    await outcomes(*more)
    pair.actor().gate.set()
    assert (await outcomes(*asks))[1] == 1


@pytest.mark.parametrize("pair", [LOCAL], indirect=True)
async def test_a_full_mailbox_does_with_an_interleaving_message_what_its_policy_says(pair):
    """Within one process, where no credit holds anybody back."""
    heard = []
    pair.far.on_actor_failed = lambda *facts: heard.append(facts)
    for name, policy in enumerate(Overflow):
        ref = await pair.spawn(Gate, name=f"a.{name}", mailbox=MailboxPolicy(messages=3, overflow=policy))
        actor = pair.actor(f"a.{name}")
        running = [asyncio.create_task(ref.ask(Gate.hold, "first"))]
        running += [asyncio.create_task(ref.ask(Gate.beside, n)) for n in range(3)]
        await until(lambda actor=actor: len(actor.seen) == 4)
        queued = asyncio.create_task(ref.ask(Gate.note, "queued"))
        await turns(3)
        late = asyncio.create_task(ref.ask(Gate.beside, "late"))
        await turns(3)
        actor.gate.set()
        result = [r if isinstance(r, str) else type(r) for r in await outcomes(queued, late)]
        await outcomes(*running)
        assert (
            result
            == {
                Overflow.REJECT: ["queued", MailboxFull],
                Overflow.BLOCK: ["queued", "late"],
                Overflow.DROP_OLDEST: ["queued", MailboxFull],
                Overflow.DROP_NEWEST: ["queued", MailboxFull],
                Overflow.FAIL: [ActorStopped, MailboxFull],
            }[policy]
        ), policy
    await until(lambda: heard)


async def test_accepted_tells_of_interleaving_messages_all_run(remote):
    """Their senders have credit, and have been told that they are accepted."""
    await remote.spawn(Gate, mailbox=MailboxPolicy(messages=2))
    for number in range(3):
        node = await remote.node(f"sender{number}")
        node.add_location(remote.far.location("a.0"))
        for one in "ab":
            node.ref("a.0", Gate).tell(Gate.beside, f"{number}{one}")
    await until(lambda: len(remote.actor().seen) == 6)
    remote.actor().gate.set()
    await until(lambda: len(remote.actor().ended) == 6)
    assert remote.far.dropped_tells == 0
