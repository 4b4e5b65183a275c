"""A flood of messages delays neither a cancellation nor a stop of its target: a bound on what is handled before.

Each message of the flood holds the loop for as long as a turn of an actor may last, so a turn has one or two of them.
What is on its way takes some turns of the loop (flush, network thread, read); `MOST` leaves room for those of a busy
machine and is far below one turn of a runtime that counts messages instead of time (256), and below what waits.
"""

import asyncio
import time

import pytest

from callboard.actors.actor import interleave
from callboard.actors.cell import TURN_S
from callboard.actors.errors import ActorStopped
from callboard.actors.mailbox import Mailbox

from ..network import until
from .classes import Gate
from .pairs import outcomes

FLOOD = 1000
MOST = 150


class Flooded(Gate):
    """Handles messages that take time and never wait; writes down how many came before what."""

    def __init__(self) -> None:
        super().__init__()
        self.spun = 0
        self.at_cancel = self.at_stop = -1

    async def on_stop(self, reason) -> None:
        self.at_stop = self.spun

    def spin(self) -> None:
        end = time.monotonic() + 2 * TURN_S
        while time.monotonic() < end:
            pass
        self.spun += 1

    @interleave
    async def hold_beside(self) -> None:
        self.seen.append("held")
        try:
            await self.gate.wait()
        finally:
            self.at_cancel = self.spun


class FloodedWide(Flooded):
    """The same, many at a time."""

    concurrency = 64


BOTH = pytest.mark.parametrize("cls", [Flooded, FloodedWide])


async def flooded(pair, cls):
    """An actor in front of which most of a flood still waits."""
    ref = await pair.spawn(cls)
    holding = asyncio.create_task(ref.ask(Flooded.hold_beside))
    await until(lambda: pair.actor().seen == ["held"])
    for _ in range(FLOOD):
        ref.tell(Flooded.spin)
    await until(lambda: pair.actor().spun > 1)
    return ref, pair.actor(), holding


@BOTH
async def test_a_running_handler_of_a_flooded_actor_is_cancelled_before_many_more_are_handled(pair, cls):
    _, actor, holding = await flooded(pair, cls)
    before = actor.spun
    holding.cancel()
    await until(lambda: actor.at_cancel >= 0)
    assert actor.at_cancel - before <= MOST
    await pair.stop("a.0", grace_s=0)


@BOTH
async def test_a_queued_message_of_a_flooded_actor_is_taken_out_before_many_more_are_handled(pair, cls):
    ref, actor, holding = await flooded(pair, cls)
    mailbox: Mailbox = pair.cell().mailbox

    def waits():
        return any(letter.method.name == "note" and not letter.cancelled for letter in mailbox.queue)

    asking = asyncio.create_task(ref.ask(Gate.note, 1))
    await until(waits)
    before = actor.spun
    asking.cancel()
    await until(lambda: not waits())
    assert actor.spun - before <= MOST
    assert actor.seen == ["held"]
    holding.cancel()
    await pair.stop("a.0", grace_s=0)


@BOTH
async def test_a_stop_of_a_flooded_actor_begins_before_many_more_are_handled(pair, cls):
    ref, actor, holding = await flooded(pair, cls)
    asking = asyncio.create_task(ref.ask(Gate.note, 1))
    await until(lambda: any(letter.method.name == "note" for letter in pair.cell().mailbox.queue))
    before = actor.spun
    await pair.stop("a.0", grace_s=0)
    assert actor.at_stop - before <= MOST
    assert actor.seen == ["held"]
    assert {type(outcome) for outcome in await outcomes(asking, holding)} == {ActorStopped}
