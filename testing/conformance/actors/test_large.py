"""Large values travel without copies where that cannot be seen: not by the sender who goes on, nor by the receiver."""

import asyncio
import random

import numpy as np
import pytest

from callboard.actors.errors import MailboxFull
from callboard.actors.mailbox import MailboxPolicy

from ..network import until
from .classes import Echo, Gate

MIB = 1024 * 1024


async def test_large_values_arrive_equal_and_of_their_kind(pair):
    ref = await pair.spawn(Echo)
    array = np.random.default_rng(1).integers(0, 2**62, (300, 1000))
    for _ in range(3):
        for value in (
            bytes(2 * MIB),
            bytearray(b"ab") * MIB,
            array,
            array.T,
            array[::2, ::3],
            np.asfortranarray(array),
            array.astype("M8[s]"),
            array[:10].astype("U"),
        ):
            answer = await ref.ask(Echo.echo, {"value": value, "beside": [1, value]})
            for found in (answer["value"], answer["beside"][1]):
                assert type(found) is type(value)
                assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value
        view = await ref.ask(Echo.echo, memoryview(b"abcd" * MIB))
        assert (type(view), bytes(view)) == (memoryview, b"abcd" * MIB)


async def test_arrays_and_views_of_another_process_are_read_only(remote):
    ref = await remote.spawn(Echo)
    for _ in range(3):
        array = await ref.ask(Echo.echo, np.ones((1024, 256)))
        view = await ref.ask(Echo.echo, memoryview(bytearray(2 * MIB)))
        assert not array.flags.writeable
        assert view.readonly
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            array.flags.writeable = True


async def test_what_a_message_carries_is_what_it_was_at_the_call_wherever_it_has_to_wait(remote):
    """The first wait for the link, the next for room in it, and those after the mailbox is full for credit."""
    ref = await remote.spawn(Gate, mailbox=MailboxPolicy(messages=30))
    array, buffer = np.zeros(100_000), bytearray(MIB)
    ref.tell(Gate.hold, "wait")
    sent = []
    for number in range(1, 100):
        array[:] = number
        buffer[:] = bytes((number,)) * MIB
        try:
            ref.tell(Gate.note, {"array": array, "bytes": buffer, "view": memoryview(buffer)})
        except MailboxFull:
            break
        sent.append(number)
        if number % 7 == 0:
            await asyncio.sleep(0)
    array[:] = 0
    buffer.clear()
    remote.actor().gate.set()
    await until(lambda: len(remote.actor().seen) == len(sent) + 1)
    for number, seen in zip(sent, remote.actor().seen[1:], strict=True):
        expected = bytes((number,)) * MIB
        assert (seen["array"] == number).all()
        assert seen["bytes"] == expected
        assert seen["view"] == expected


async def test_items_of_a_stream_may_change_after_they_were_yielded(remote):
    ref = await remote.spawn(Echo)
    values = [np.full(200_000, number) for number in range(20)]
    seen = [item async for item in ref.stream(Echo.items, values)]
    assert all((item == number).all() for number, item in enumerate(seen))


async def test_concurrent_asks_of_all_sizes_each_get_their_own_answer(pair):
    ref = await pair.spawn(Echo)

    async def asker(seed):
        choose = random.Random(seed)
        for _ in range(6):
            data = choose.randbytes(1 << 16) * choose.choice((0, 1, 2, 5, 16, 40, 76))
            value = memoryview(data) if choose.random() < 0.5 else data
            assert bytes(await ref.ask(Echo.echo, value)) == data

    await asyncio.gather(*(asyncio.wait_for(asker(seed), 60) for seed in range(16)))
