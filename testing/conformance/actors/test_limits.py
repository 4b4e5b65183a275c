"""The limit of a message is checked before anything is sent, on both sides, and bounds no stream."""

import asyncio

import pytest

from callboard.transports.errors import TooLarge

from ..network import until
from .classes import Echo, Gate
from .pairs import drain, in_time, outcomes, turns

MIB = 1024 * 1024


async def test_a_message_over_the_limit_is_refused_before_anything_is_sent(remote):
    ref = await remote.spawn(Echo)
    assert await ref.ask(Echo.echo, 1) == 1
    before = remote.near.statistics()["network"]
    sent = sum(counts["bytes_sent"] for counts in before.values())
    for value in (bytes(40 * MIB), "x" * (40 * MIB), [bytes(20 * MIB), bytes(20 * MIB)]):
        with pytest.raises(
            TooLarge, match=r"exceeds the limit of 33,554,432 bytes; raise network\.max_message_bytes"
        ):
            await ref.ask(Echo.echo, value)
        with pytest.raises(TooLarge):
            ref.tell(Echo.echo, value)
        with pytest.raises(TooLarge):
            await anext(ref.stream(Echo.items, [value]))
    after = remote.near.statistics()["network"]
    assert sum(counts["bytes_sent"] for counts in after.values()) == sent
    outlet = ref._target.pick()
    assert outlet._credit + 1 >= outlet.location.window
    assert await ref.ask(Echo.echo, bytes(30 * MIB)) == bytes(30 * MIB)


async def test_the_smaller_limit_of_two_nodes_holds_also_for_what_was_sent_before_they_met(remote):
    small = await remote.node("small", max_message_bytes=64 * 1024, shrink_message_bytes=64 * 1024)
    ref = await remote.spawn(Gate, on=small)
    # All of this waits while the link is made: together it is more than the peer takes, one by one it is not.
    asks = [asyncio.create_task(ref.ask(Gate.note, [n, bytes(3000)])) for n in range(60)]
    large = asyncio.create_task(ref.ask(Gate.note, bytes(63 * 1024 + 2000)))
    buffers = asyncio.create_task(ref.ask(Gate.note, bytes(100 * 1024)))
    tells = [ref.tell(Gate.note, [n, bytes(100)]) for n in range(60, 70) if await turns(0) is None]
    results = await outcomes(*asks, large, buffers)
    assert results[:60] == [[n, bytes(3000)] for n in range(60)]
    assert [type(r) for r in results[60:]] == [TooLarge] * 2
    await until(lambda: len(remote.actor().seen) == 60 + len(tells))
    outlet = ref._target.pick()
    (inlet,) = (s.inlets[outlet.location.number] for s in small._sessions.values() if hasattr(s, "inlets"))
    assert outlet._credit + inlet.count == outlet.location.window
    assert outlet._bytes + inlet.bytes == outlet.location.window_bytes
    with pytest.raises(TooLarge):
        await ref.ask(Gate.note, bytes(65 * 1024))


async def test_records_of_a_stream_fit_the_smallest_limit(remote):
    small = await remote.node("small", max_message_bytes=64 * 1024, shrink_message_bytes=64 * 1024)
    ref = await remote.spawn(Echo, on=small)
    sizes = [60_000, 10, 47_000, 20_000, 30_000, 63_000, 1, 63_000, 40_000, 8_000]
    for values in ([bytes(1000)] * 200, *([bytes(size)] for size in sizes)):
        assert [item async for item in ref.stream("items", values[:40])] == values[:40]

    class Sizes(Echo):
        async def sizes(self, sizes: list[int]):
            for size in sizes:
                yield "x" * size

    ref = await remote.spawn(Sizes, name="b.0", on=small)
    items, error = await in_time(drain(ref.stream(Sizes.sizes, sizes * 5)))
    assert (list(map(len, items)), error) == (sizes * 5, None)
    items, error = await in_time(drain(ref.stream(Sizes.sizes, [5, 70_000])))
    assert (items, type(error)) == (["xxxxx"], TooLarge)
