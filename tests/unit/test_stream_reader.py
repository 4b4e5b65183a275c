"""The reading side of a stream by itself: what has arrived, what was read, and what goes back as credit."""

from callboard.actors.producer import WINDOW_ITEMS
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
