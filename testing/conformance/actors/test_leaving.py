"""What goes on behind a caller ends with it: through several processes, in each manner of handler."""

import asyncio
import time

import pytest

from callboard.actors.current import remaining_s
from callboard.actors.errors import DeadlineExceeded, MailboxFull
from callboard.actors.policy import Executed, MailboxPolicy

from ..network import PATIENCE_S, until
from .classes import Caller, Echo, Gate
from .pairs import DEADLINES_S, drain, in_time, turns


async def chain(pair):
    """An actor that asks another in a third process, where there are several."""
    third = await pair.node("third") if pair.remote else pair.far
    outer = await pair.spawn(Caller, name="outer.0")
    inner = await pair.spawn(Gate, name="inner.0", on=third)
    return outer, inner


@pytest.mark.parametrize("method", ["hold", "beside", "hold_thread"])
async def test_leaving_reaches_the_handler_in_the_third_process(pair, method):
    outer, inner = await chain(pair)
    asking = asyncio.create_task(outer.ask(Caller.pass_on, inner, method, 1))
    actor = pair.actor("inner.0")
    await until(lambda: actor.seen == [1])
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    await until(lambda: actor.cancelled == [1] or actor.flags == [True])
    assert await in_time(inner.ask(Gate.note, 2)) == 2


async def test_leaving_takes_out_what_is_queued_in_the_third_process(pair):
    outer, inner = await chain(pair)
    held = asyncio.create_task(inner.ask(Gate.hold, "first"))
    actor = pair.actor("inner.0")
    await until(lambda: actor.seen == ["first"])
    asking = asyncio.create_task(outer.ask(Caller.pass_on, inner, "note", 1))
    await until(lambda: len(pair.cell("inner.0").mailbox))
    asking.cancel()
    await until(lambda: not len(pair.cell("inner.0").mailbox))
    actor.gate.set()
    assert await held == "first"
    assert await inner.ask(Gate.note, 2) == 2
    assert actor.seen == ["first", 2]


async def test_leaving_a_stream_reaches_its_producer_in_the_third_process(pair):
    outer, inner = await chain(pair)
    stream = outer.stream(Caller.pass_stream_on, inner, "trickle", 2)
    assert [await anext(stream) for _ in range(2)] == [0, 1]
    await stream.aclose()
    await until(lambda: pair.actor("inner.0").cancelled == ["trickle"])
    await pair.quiet("outer.0")
    await pair.quiet("inner.0")


async def test_a_deadline_passes_on_to_the_third_process(pair):
    outer, inner = await chain(pair)
    for seconds in DEADLINES_S:
        with pytest.raises(DeadlineExceeded):
            await outer.options(deadline_s=seconds).ask(Caller.pass_on, inner, "hold", 1)
        if pair.actor("inner.0").seen:
            break
    await until(lambda: pair.actor("inner.0").cancelled)
    await pair.quiet("outer.0")


async def test_what_a_stream_asks_has_no_more_time_than_is_left_of_it(pair):
    """Also within one process, where the stream itself needs no clock of its own."""

    class Asks(Caller):
        async def lefts(self, ref):
            yield await ref.ask(Caller.remaining)
            yield remaining_s(asyncio.get_running_loop().time()) is not None

    outer = await pair.spawn(Asks, name="outer.0")
    inner = await pair.spawn(Caller, name="inner.0")
    stream = outer.options(deadline_s=PATIENCE_S / 3).stream(Asks.lefts, inner)
    (left, has_a_deadline), error = await in_time(drain(stream))
    assert error is None
    assert 0 < left <= PATIENCE_S / 3
    assert has_a_deadline


async def test_a_stream_whose_time_is_over_in_the_mailbox_never_runs(pair):
    ref = await pair.spawn(Gate)
    held = asyncio.create_task(ref.ask(Gate.hold, "first"))
    await until(lambda: pair.actor().seen == ["first"])
    items, error = await drain(ref.options(deadline_s=0.05).stream(Gate.note_stream, 1))
    assert (items, type(error)) == ([], DeadlineExceeded)
    assert error.executed is (Executed.MAYBE if pair.remote else Executed.NEVER)
    await ref.ask(Gate.look)  # by now the far side knows
    pair.actor().gate.set()
    assert await held == "first"
    assert await ref.ask(Gate.note, "end") == "end"
    assert pair.actor().seen == ["first", "end"]


async def test_the_time_to_the_first_item_is_measured(pair):
    class Slow(Gate):
        begun = False

        async def after_the_gate(self):
            self.begun = True
            await self.gate.wait()
            yield 1
            yield 2

    ref = await pair.spawn(Slow)
    stream, empty = ref.stream(Slow.after_the_gate), ref.stream(Echo.count, 0)
    assert stream.first_item_s is None
    first = asyncio.create_task(anext(stream))
    await until(lambda: pair.actor().begun)  # so that what is measured began before the clock here
    until_s = time.monotonic() + 0.05
    await until(lambda: time.monotonic() > until_s)
    assert stream.first_item_s is None
    pair.actor().gate.set()
    assert await first == 1
    measured = stream.first_item_s
    assert measured >= 0.05
    assert await anext(stream) == 2
    assert stream.first_item_s == measured
    counts = pair.near.statistics()["first_items"]
    assert counts == {"streams": 1, "mean_s": measured, "max_s": measured}
    await stream.aclose()
    await empty.aclose()
    assert empty.first_item_s is None


async def test_one_sender_s_flood_does_not_keep_another_s_messages_out(remote):
    """Each process has credit of its own: the quiet one's ask is behind at most a window of the loud one's."""
    third = await remote.node("third")
    messages = 64
    ref = await remote.spawn(Gate, mailbox=MailboxPolicy(messages=messages))
    remote.publish("a.0")
    quiet = third.ref("a.0", Gate)
    assert await quiet.ask(Gate.note, "warm") == "warm"
    floods = 0
    going = True

    async def flood():
        nonlocal floods
        while going:
            await ref.tell_wait(Gate.note, "loud")
            floods += 1

    flooding = [asyncio.create_task(flood()) for _ in range(8)]
    seen = remote.actor().seen
    await until(lambda: seen.count("loud") > 4 * messages)
    for number in range(20):
        before = len(seen)
        while True:
            try:
                assert await in_time(quiet.ask(Gate.note, number)) == number
                break
            except MailboxFull:  # both windows together are more than the mailbox: it says so, and at once
                await turns(1)
        assert seen.index(number) >= before
    going = False
    await in_time(asyncio.gather(*flooding))
    await until(lambda: seen.count("loud") == floods)
    assert [value for value in seen if isinstance(value, int)] == list(range(20))
    assert remote.far.dropped_tells == 0
