"""What waits for a way to an actor: bounded, and never sent into the void when the way goes."""

import asyncio

from callboard.actors.errors import MailboxFull

from ..network import until
from .classes import Gate
from .pairs import turns
from .test_backpressure import held, notes

KIB = 1024


async def crowded(ref, size=1):
    """Fill mailbox and backlog; returns how many messages that took, and the outlet."""
    sent = 0
    while True:
        try:
            ref.tell(Gate.note, "x" * size)
        except MailboxFull:
            return sent, ref._target.pick()
        sent += 1


async def test_who_was_let_in_just_before_the_link_ended_finds_another_way(remote):
    ref = await held(remote, messages=4)
    sent, outlet = await crowded(ref)
    late = asyncio.create_task(ref.tell_wait(Gate.note, "late"))
    await turns(5)
    outlet.more(sent, sent * KIB)  # what the last frame brings ...
    outlet.peer.link.close()  # ... before the end that came with it
    await late
    remote.actor().gate.set()
    await until(lambda: "late" in notes(remote))
    assert notes(remote).count("late") == 1


async def test_what_waits_at_the_sender_is_bounded_in_bytes_too(remote):
    ref = await held(remote, messages=1000, bytes=100 * KIB)
    sent, _ = await crowded(ref, 30 * KIB)
    assert sent <= 10  # a window in the mailbox, one here, and the message that passes each bound
    remote.actor().gate.set()
    await until(lambda: len(notes(remote)) == sent)
