"""The reading side of a stream by itself: what has arrived, what was read, and what goes back as credit."""

import asyncio

import pytest

from callboard.actors.directory import Location
from callboard.actors.errors import ActorUnavailable, DeadlineExceeded
from callboard.actors.policy import Executed
from callboard.actors.producer import WINDOW_BYTES, WINDOW_ITEMS
from callboard.actors.stream import Reader


async def test_a_reader_that_lags_takes_all_that_has_arrived_in_one_step():
    reader = Reader()
    reader.feed(["a", "b"], 2)
    reader.feed(["c"], 1)
    assert await reader.take() == ["a", "b", "c"]
    reader.feed(["d"], 1)
    reader.finish(None)
    assert await reader.take() == ["d"]
    assert await reader.take() == []


async def test_every_item_that_was_taken_goes_back_as_credit_once():
    granted = []
    reader = Reader()
    reader.more = lambda items, size: granted.append((items, size))
    for _ in range(4):
        reader.feed(["x"] * (WINDOW_ITEMS // 8), 100)
    await reader.take()
    assert granted == []  # not before somebody comes back for more
    reader.feed(["y"], 1)
    await reader.take()
    assert granted == [(WINDOW_ITEMS // 2, 400)]


async def test_bytes_go_back_as_credit_even_if_the_items_are_few():
    granted = []
    reader = Reader()
    reader.more = lambda items, size: granted.append((items, size))
    reader.feed(["large"], WINDOW_BYTES)
    await reader.take()
    reader.feed(["small"], 1)
    await reader.take()
    assert granted == [(1, WINDOW_BYTES)]


async def test_the_error_comes_after_the_items_and_says_how_many_there_were():
    reader = Reader()
    reader.feed([1, 2], 2)
    reader.finish(ActorUnavailable("it died", actor="a.0", executed=Executed.NEVER))
    reader.finish(None)  # only the first end counts
    reader.feed([3], 1)  # and nothing comes after it
    assert await reader.take() == [1, 2]
    with pytest.raises(ActorUnavailable, match="after 2 items") as caught:
        await reader.take()
    assert (caught.value.items, caught.value.executed) == (2, Executed.YES)  # some of it did run


async def test_a_reader_that_waits_is_woken_by_a_record_and_by_the_end():
    reader = Reader()
    taking = asyncio.create_task(reader.take())
    await asyncio.sleep(0)
    reader.feed(["a"], 1)
    assert await taking == ["a"]
    taking = asyncio.create_task(reader.take())
    await asyncio.sleep(0)
    reader.finish(None)
    assert await taking == []


@pytest.mark.parametrize(("waits", "executed"), [(True, Executed.NEVER), (False, Executed.MAYBE)])
async def test_a_reader_whose_time_is_over_cancels_and_ends(waits, executed):
    class Way:
        location = Location("a.0", "n", "memory://x", 1, 3)

        def forget_waiting(self, call_id):
            return waits

        def cancel(self, call_id):
            cancelled.append(call_id)

    cancelled = []
    reader = Reader()
    reader.route = Way()
    reader.expire_after(0.01, 7)
    with pytest.raises(DeadlineExceeded) as caught:
        await reader.take()
    assert (cancelled, caught.value.actor, caught.value.incarnation) == ([7], "a.0", 3)
    assert caught.value.executed is executed


async def test_a_reader_that_has_ended_has_no_timer_left():
    reader = Reader()
    reader.expire_after(0.01, 7)  # it would miss its way
    reader.finish(None)
    await asyncio.sleep(0.02)
    assert await reader.take() == []
