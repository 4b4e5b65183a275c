"""Streams: every item once and in order, no more in flight than the reader has room for, and a clear end."""

import asyncio
import contextlib
import gc
import random

import numpy as np
import pytest

from callboard.actors.errors import (
    ActorStopped,
    ActorUnavailable,
    DeadlineExceeded,
    EncodeError,
    UnknownMethod,
)
from callboard.actors.outcome import outcome
from callboard.actors.policy import Executed
from callboard.actors.producer import WINDOW_BYTES, WINDOW_ITEMS

from ..network import until
from .classes import Caller, Echo, Gate, Wide
from .pairs import DEADLINES_S, drain, in_time, turns


@pytest.mark.parametrize("method", [Echo.count, Echo.plain_count, "count"])
@pytest.mark.parametrize("items", [0, 1, 10_000])
async def test_every_item_arrives_once_and_in_order(pair, method, items):
    ref = await pair.spawn(Echo)
    assert [item async for item in ref.stream(method, items)] == list(range(items))


async def test_a_blocking_generator_runs_in_a_thread(pair):
    ref = await pair.spawn(Echo)
    assert [item async for item in ref.stream(Echo.threaded_count, 50)] == [(n, False) for n in range(50)]


async def test_batches_are_the_same_items_as_they_arrived(pair):
    ref = await pair.spawn(Echo)
    batches = [batch async for batch in ref.stream(Echo.count, 20_000).batches()]
    assert [item for batch in batches for item in batch] == list(range(20_000))
    assert all(batches)
    if pair.remote:
        assert len(batches) < 1000


async def test_items_of_every_kind_keep_their_order(pair):
    ref = await pair.spawn(Echo)
    values = ["a", 1, (1, 2), np.arange(30_000), b"x" * 200_000, {"k": {1}}, bytes(70_000), None, 2**80, "z"]
    random.shuffle(values)
    got = [item async for item in ref.stream(Echo.items, values)]
    assert [type(item) for item in got] == [type(value) for value in values]
    assert all(np.array_equal(one, other) for one, other in zip(got, values, strict=True) if one is not None)


async def test_many_streams_at_once_do_not_mix(pair):
    ref = await pair.spawn(Wide)

    async def read(start):
        items = []
        async for item in ref.stream(Gate.note_stream, start):
            items.append(item)
            await turns(random.randrange(3))
        return items

    assert await asyncio.gather(*(read(n) for n in range(200))) == [[n] for n in range(200)]
    echo = await pair.spawn(Echo, name="e.0")

    async def count(to):
        return [item async for item in echo.stream(Echo.count, to)]

    assert [len(items) for items in await asyncio.gather(*(count(n * 100) for n in range(32)))] == [
        n * 100 for n in range(32)
    ]


async def test_nothing_is_sent_before_the_first_step(pair):
    ref = await pair.spawn(Gate)
    stream = ref.stream(Gate.note_stream, 1)
    await turns(20)
    assert pair.actor().seen == []
    assert [item async for item in stream] == [1]


# -- back-pressure


async def test_a_slow_reader_bounds_what_is_produced(pair):
    ref = await pair.spawn(Gate)
    stream = ref.stream(Gate.endless)
    assert await anext(stream) == 0
    await pair.blocked()
    assert pair.actor().produced <= WINDOW_ITEMS + 1
    for expected in range(1, 3 * WINDOW_ITEMS):
        assert await anext(stream) == expected
    assert pair.actor().produced <= 5 * WINDOW_ITEMS
    await stream.aclose()


async def test_a_slow_reader_bounds_the_bytes_that_wait(pair):
    for name, size in (("a.0", 1000), ("a.1", 100_000)):
        ref = await pair.spawn(Gate, name=name)
        stream = ref.stream(Gate.endless, size)
        await anext(stream)
        await pair.blocked()
        assert pair.actor(name).produced * size <= WINDOW_BYTES + 300_000
        for _ in range(3 * WINDOW_BYTES // size if size > 10_000 else 3 * WINDOW_ITEMS):
            await anext(stream)
        await stream.aclose()


async def test_an_item_larger_than_the_window_passes(remote):
    sizes = [12_000_000, 5, 9_000_000, 70_000, 10_000_000]
    gate = await remote.spawn(Gate, name="g.0")
    for size in sizes:
        stream = gate.stream(Gate.endless, size)
        for _ in range(3):
            assert len(await in_time(anext(stream))) == size
        await stream.aclose()


async def test_credit_comes_back_whatever_the_size_of_the_items(remote):
    """Both sides have to count the same, or a long stream comes to a stop or loses its bound."""
    ref = await remote.spawn(Gate)
    count, producer = 0, None
    async for batch in ref.stream(Gate.endless, 2000).batches():
        count += len(batch)
        if producer is None:
            (letter,) = (letter for origin in remote.origins() for letter in origin.calls.values())
            producer = letter.producer
        if count > 30_000:
            break
        assert producer._credit.items <= WINDOW_ITEMS
        assert producer._credit.bytes <= WINDOW_BYTES


# -- leaving early


async def break_out(ref):
    async for _ in ref.stream(Gate.trickle, 3):
        break


async def raise_out(ref):
    with contextlib.suppress(KeyError):
        async for _ in ref.stream(Gate.trickle, 3):
            raise KeyError(1)


async def close(ref):
    stream = ref.stream(Gate.trickle, 3)
    await anext(stream)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def leave_context(ref):
    async with ref.stream(Gate.trickle, 3) as stream:
        await anext(stream)


async def close_batches(ref):
    async for _ in ref.stream(Gate.trickle, 3).batches():
        break


async def cancel_reader(ref):
    async def read():
        async for _ in ref.stream(Gate.trickle, 3):
            pass

    reading = asyncio.create_task(read())
    await turns(3)
    await until(lambda: ref._host is not None and ref._host.readers)
    await turns(10)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def forget(ref):
    stream = ref.stream(Gate.trickle, 3)
    await anext(stream)
    del stream
    gc.collect()


@pytest.mark.parametrize(
    "leave", [break_out, raise_out, close, leave_context, close_batches, cancel_reader, forget]
)
async def test_leaving_a_stream_early_cancels_its_handler(pair, leave):
    ref = await pair.spawn(Gate)
    await leave(ref)
    actor = pair.actor()
    await until(lambda: actor.cancelled == ["trickle"] or (not pair.cell().running and not actor.seen))
    assert actor.ended == []
    assert await ref.ask(Gate.note, 1) == 1
    await until(lambda: not pair.near.readers and not any(origin.calls for origin in pair.origins()))


async def test_a_stream_that_was_never_started_costs_nothing_to_close(pair):
    ref = await pair.spawn(Gate)
    stream = ref.stream(Gate.note_stream, 1)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await turns(10)
    assert pair.actor().seen == []


async def test_leaving_while_the_producer_waits_for_credit_ends_it(pair):
    ref = await pair.spawn(Gate)
    stream = ref.stream(Gate.endless)
    await anext(stream)
    await pair.blocked()
    await stream.aclose()
    await until(lambda: pair.actor().cancelled == ["endless"])
    assert await ref.ask(Gate.note, 1) == 1


async def test_a_blocking_generator_is_closed_in_a_thread_when_its_reader_leaves(pair):
    ref = await pair.spawn(Gate)
    stream = ref.stream(Gate.endless_thread)
    await anext(stream)
    await stream.aclose()
    await until(lambda: pair.actor().flags)
    assert pair.actor().flags == [False]


async def test_a_generator_that_will_not_be_cancelled_ends_all_the_same(pair):
    ref = await pair.spawn(Gate)
    stream = ref.stream(Gate.stubborn)
    for expected in range(5):
        assert await anext(stream) == expected
    await stream.aclose()
    assert await ref.options(deadline_s=10).ask(Gate.note, 1) == 1
    # On a slow way it had used up its credit meanwhile, and was ended while it waited for more.
    assert pair.actor().cancelled or pair.actor().produced >= WINDOW_ITEMS - 1


# -- ends


async def test_an_error_comes_after_the_items_before_it(pair):
    class Failing(Echo):
        async def some(self, items: int):
            for number in range(items):
                yield number
            raise ValueError("no more")

        def plain_some(self, items: int):
            yield from range(items)
            raise ValueError("no more")

    ref = await pair.spawn(Failing)
    for method in ("some", "plain_some"):
        for items in (0, 3, 5000):
            got, error = await drain(ref.stream(method, items))
            assert got == list(range(items))
            assert (type(error), str(error)) == (ValueError, "no more")
            assert (outcome(error).items, outcome(error).executed) == (items, Executed.YES)
    assert await ref.ask(Failing.echo, 1) == 1


async def test_an_item_that_cannot_be_sent_ends_the_stream_with_its_path(remote):
    class Odd(Echo):
        async def odd(self):
            yield 1
            yield {"ok": (2, 3)}
            yield {"a": [object()]}

    ref = await remote.spawn(Odd)
    got, error = await drain(ref.stream(Odd.odd))
    assert got == [1, {"ok": (2, 3)}]
    assert (type(error), error.path) == (EncodeError, "an item['a'][0]")
    assert await ref.ask(Odd.echo, 1) == 1


async def test_the_end_of_the_actor_ends_the_stream_after_its_items_and_names_the_last(pair):
    ref = await pair.spawn(Gate)
    stream = ref.stream(Gate.trickle, 5)
    assert await anext(stream) == 0
    await until(lambda: pair.actor().produced == 5)
    await pair.stop("a.0", grace_s=0)
    got, error = await drain(stream)
    assert got == [1, 2, 3, 4]
    assert (type(error), error.items, error.executed) == (ActorStopped, 5, Executed.YES)
    assert "after 5 items" in str(error)


async def test_items_yielded_just_before_the_actor_is_stopped_are_not_lost(pair):
    ref = await pair.spawn(Gate)
    stream = ref.stream(Gate.trickle, 3)
    reading = asyncio.create_task(anext(stream))
    await until(lambda: pair.actor().produced == 3)
    stopping = asyncio.create_task(pair.stop("a.0", grace_s=0))
    assert await reading == 0
    assert [await anext(stream), await anext(stream)] == [1, 2]
    with pytest.raises(ActorStopped):
        await anext(stream)
    await stopping


async def test_a_dead_producer_ends_the_stream_and_names_the_last_item(remote):
    ref = await remote.spawn(Gate)
    stream = ref.stream(Gate.trickle, 7)
    assert [await anext(stream) for _ in range(7)] == list(range(7))
    for origin in remote.origins():
        origin.link.close()
    with pytest.raises(ActorUnavailable, match="after 7 items") as caught:
        await anext(stream)
    assert (caught.value.items, caught.value.actor) == (7, "a.0")
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_may_have_a_deadline(pair):
    ref = await pair.spawn(Gate)
    for seconds in DEADLINES_S:
        items, error = await drain(ref.options(deadline_s=seconds).stream(Gate.trickle, 2))
        assert (type(error), error.actor, error.items) == (DeadlineExceeded, "a.0", len(items))
        assert items == list(range(len(items)))
        if len(items) == 2:
            break
    assert "after 2 items" in str(error)
    await until(lambda: pair.actor().cancelled)
    await pair.quiet()


async def test_a_stream_of_a_handler_ends_with_the_time_of_that_handler(pair):
    outer = await pair.spawn(Caller, name="outer.0")
    inner = await pair.spawn(Gate, name="inner.0")
    for seconds in DEADLINES_S:
        stream = outer.options(deadline_s=seconds).stream(Caller.pass_stream_on, inner, "trickle", 2)
        items, error = await drain(stream)
        assert type(error) is DeadlineExceeded
        if len(items) == 2:
            break
    await until(lambda: pair.actor("inner.0").cancelled)
    await pair.quiet("outer.0")
    await pair.quiet("inner.0")


async def test_a_stream_through_another_actor_passes_items_and_cancellation_on(pair):
    outer = await pair.spawn(Caller, name="outer.0")
    inner = await pair.spawn(Gate, name="inner.0")
    stream = outer.stream(Caller.pass_stream_on, inner, "trickle", 3)
    assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
    await stream.aclose()
    await until(lambda: pair.actor("inner.0").cancelled == ["trickle"])


async def test_asking_a_stream_and_streaming_a_method_are_errors(pair):
    ref = await pair.spawn(Echo)
    with pytest.raises(UnknownMethod, match=r"Echo\.count is a stream; use stream"):
        await ref.ask("count", 1)
    with pytest.raises(UnknownMethod, match=r"Echo\.echo is not a stream; use ask or tell"):
        await anext(ref.stream("echo", 1))
