"""Further tries go to who has not failed, are bounded, and never enter a cycle."""

import asyncio

import pytest

from callboard.actors.actor import idempotent
from callboard.actors.errors import ActorStopped, ActorUnavailable, CallCycle, DeadlineExceeded
from callboard.actors.pending import INFINITE
from callboard.actors.policy import Executed, MailboxPolicy, OnDown, Overflow, StopReason

from ..network import until
from .classes import Caller, Gate
from .pairs import in_time, outcomes, turns


class Member(Caller):
    """Of a component that asks itself: one instance asks the others."""

    tried: list[str]

    def __init__(self):
        super().__init__()
        self.tried = []

    async def ask_others(self, ref, method, options=None):
        return await ref.options(**(options or {})).ask(method)

    async def stream_others(self, ref):
        async for item in ref.stream("name_as_stream"):
            yield item

    async def name(self):
        return self.context.name

    async def name_as_stream(self):
        yield self.context.name

    @idempotent
    async def name_again(self):
        return self.context.name


async def members(pair, count):
    """Instances of one component, the first on the far node; a reference to the first, and to all."""
    first = await pair.spawn(Member, name="m.0")
    for number in range(1, count):
        await pair.spawn(Member, name=f"m.{number}")
    return first.options(deadline_s=20), pair.near.ref("m", Member)


async def stop_unheard(pair, name):
    """Stop an actor so that those who ask do not know it yet: their message comes when it is gone."""
    location = pair.far.location(name)
    await pair.far.stop_actor(name, StopReason.COMMANDED, grace_s=0)
    for node in pair.nodes:
        node.add_location(location)


@pytest.mark.parametrize("method", ["name", "name_again"])
async def test_a_further_try_never_goes_to_who_waits_for_the_message_already(pair, method):
    """m.0 asks the component; m.1 turns out to be gone, and m.0 itself is all that is left."""
    third = await pair.node("third")  # where m.0 is: so that m.1 is behind a link for it
    ref = await pair.spawn(Member, name="m.0", on=third)
    await pair.spawn(Member, name="m.1")
    component = pair.near.ref("m", Member)
    await stop_unheard(pair, "m.1")
    (error,) = await in_time(outcomes(ref.options(deadline_s=20).ask(Member.ask_others, component, method)))
    assert isinstance(error, ActorStopped | ActorUnavailable)
    assert error.executed is Executed.YES  # of the outer message
    assert await ref.ask(Member.name) == "m.0"


async def test_a_further_try_of_a_stream_never_goes_to_who_waits_already(pair):
    third = await pair.node("third")
    ref = await pair.spawn(Member, name="m.0", on=third)
    await pair.spawn(Member, name="m.1")
    component = pair.near.ref("m", Member)
    await stop_unheard(pair, "m.1")
    with pytest.raises((ActorStopped, ActorUnavailable)):
        await in_time(anext(ref.stream(Member.stream_others, component)))
    assert await ref.ask(Member.name) == "m.0"


async def test_a_further_try_finds_the_instance_that_neither_failed_nor_waits(pair):
    third = await pair.node("third")
    ref = await pair.spawn(Member, name="m.0", on=third)
    for number in range(1, 4):
        await pair.spawn(Member, name=f"m.{number}")
    component = pair.near.ref("m", Member)
    await stop_unheard(pair, "m.1")
    await stop_unheard(pair, "m.3")
    for _ in range(4):
        options = {"retries": 3}
        assert await in_time(ref.ask(Member.ask_others, component, "name", options)) == "m.2"


async def test_who_waits_for_the_next_incarnation_is_not_sent_to_who_waits_for_it(pair):
    third = await pair.node("third")
    ref = await pair.spawn(Member, name="m.0", on=third)
    await pair.spawn(Member, name="m.1")
    component = pair.near.ref("m", Member)
    await stop_unheard(pair, "m.1")
    options = {"on_down": OnDown.WAIT}
    listeners = len(third.directory._listeners)
    asking = asyncio.create_task(ref.ask(Member.ask_others, component, "name", options))
    await until(lambda: len(third.directory._listeners) > listeners, "it was at m.1, and waits for news")
    assert not asking.done()
    for node in pair.nodes:
        node.remove_location("m.1", 1, "it was stopped")
    await turns(20)
    await pair.spawn(Member, name="m.1", incarnation=2)
    assert await in_time(asking) == "m.1"


async def test_the_second_choice_of_a_crowded_component_is_not_who_waits_already(pair):
    """m.1 is full; while m.0 waits for a place there, m.1 goes."""
    ref = await pair.spawn(Member, name="m.0")
    await pair.spawn(Gate, name="m.1", mailbox=MailboxPolicy(messages=1, overflow=Overflow.BLOCK))
    hold = asyncio.create_task(pair.near.ref("m.1", Gate).options(retries=0).ask(Gate.hold, 1))
    await until(lambda: pair.actor("m.1").seen)
    fill = asyncio.create_task(pair.near.ref("m.1", Gate).options(retries=0).ask(Gate.note, 1))
    await until(lambda: pair.cell("m.1").mailbox.full)
    component = pair.near.ref("m", Member)
    asking = asyncio.create_task(ref.ask(Member.ask_others, component, "look"))
    await until(lambda: pair.cell("m.1").queued)
    await pair.stop("m.1", grace_s=0)
    (error,) = await in_time(outcomes(asking))
    assert isinstance(error, CallCycle | ActorUnavailable)
    await outcomes(hold, fill)


async def test_tries_are_bounded_and_each_goes_to_another_instance(remote):
    arrivals = []

    class Cutting(Gate):
        async def note(self, number):
            arrivals.append(self.context.name)
            for origin in remote.origins():
                origin.link.close()
            return number

        @idempotent
        async def again(self, number):
            return await self.note(number)

    for number in range(8):
        await remote.spawn(Cutting, name=f"m.{number}")
    component = remote.near.ref("m", Cutting)
    for method, retries, most in ((Cutting.note, 3, 1), (Cutting.again, 0, 1), (Cutting.again, 3, 4)):
        (error,) = await in_time(outcomes(component.options(retries=retries).ask(method, 1)))
        assert (type(error), error.executed) == (ActorUnavailable, Executed.MAYBE)
        assert len(arrivals) == len(set(arrivals)) == most
        arrivals.clear()


async def test_waiting_for_an_incarnation_can_be_left_at_any_moment(pair):
    ref = (await pair.spawn(Gate)).options(on_down=OnDown.WAIT)
    await pair.stop("a.0")
    listeners = len(pair.near.directory._listeners)
    calls = [
        asyncio.create_task(call)
        for call in (
            ref.ask(Gate.note, 1),
            ref.tell_wait(Gate.note, 2),
            anext(ref.stream(Gate.trickle, 1)),
        )
    ]
    await turns(5)
    assert len(pair.near.directory._listeners) == listeners + 3
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    assert len(pair.near.directory._listeners) == listeners
    await pair.spawn(Gate, incarnation=2)
    assert await ref.ask(Gate.note, "end") == "end"
    assert pair.actor().seen == ["end"]


async def test_waiting_for_an_incarnation_ends_at_the_deadline_whatever_is_waited_for(pair):
    ref = (await pair.spawn(Gate)).options(on_down=OnDown.WAIT, deadline_s=0.05)
    await pair.stop("a.0")
    calls = [ref.ask(Gate.note, 1), ref.tell_wait(Gate.note, 2), anext(ref.stream(Gate.trickle, 1))]
    for error in await outcomes(*calls):
        assert isinstance(error, ActorUnavailable | DeadlineExceeded)
        assert (error.executed, error.actor, error.incarnation) == (Executed.NEVER, "a.0", 1)
    await pair.spawn(Gate, incarnation=2)
    assert await ref.options(deadline_s=INFINITE).ask(Gate.note, "end") == "end"
    assert pair.actor().seen == ["end"]


async def test_a_nested_ask_that_waits_for_an_incarnation_ends_with_its_handler(pair):
    class Patient(Caller):
        async def wait_for(self, ref):
            return await ref.options(on_down=OnDown.WAIT, deadline_s=INFINITE).ask("note", 1)

    outer = await pair.spawn(Patient, name="outer.0")
    inner = await pair.spawn(Gate)
    await pair.stop("a.0")
    listeners = len(pair.far.directory._listeners)
    for leave in ("deadline", "cancel"):
        deadline_s = 0.1 if leave == "deadline" else 60
        asking = asyncio.create_task(outer.options(deadline_s=deadline_s).ask(Patient.wait_for, inner))
        if leave == "cancel":
            await until(lambda: len(pair.far.directory._listeners) > listeners)
            asking.cancel()
        (error,) = await outcomes(asking)
        # Both hear of the deadline at the same time.
        assert isinstance(error, DeadlineExceeded | ActorUnavailable | asyncio.CancelledError)
        await pair.quiet("outer.0")
        assert len(pair.far.directory._listeners) == listeners
