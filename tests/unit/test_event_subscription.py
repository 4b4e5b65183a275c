"""What a subscription fetches, over a plane that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import cast

import pytest

from callboard.transports.events.base import EventPlane, Source
from callboard.transports.events.frames import Kind, encode
from callboard.transports.events.inflow import Events, State
from callboard.transports.events.outflow import NOTHING
from callboard.transports.events.subscription import EventSubscription

SOURCE = Source(topic="words", component="speaker", name="speaker.0", incarnation=1, node="n", id=7)
STATE = encode(Kind.STATE_END, SOURCE.id, 3, [b"abc"])


class Asked:
    """A plane of one source, whose questions wait for the test."""

    def __init__(self) -> None:
        self._questions: asyncio.Queue[tuple[int, asyncio.Future[bytes]]] = asyncio.Queue()
        self.received: Callable[[Source, bytes], None]

    async def subscriber(self, _: str, received: Callable[[Source, bytes], None]) -> Asked:
        self.received = received
        return self

    async def follow(self, source: Source) -> None:
        pass

    async def fetch(self, _: Source, after: int) -> AsyncIterator[bytes]:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._questions.put_nowait((after, answer))
        yield await answer

    def statistics(self) -> Mapping[str, int]:
        return {}

    async def close(self) -> None:
        pass

    @property
    def is_idle(self) -> bool:
        return self._questions.empty()

    def unfollow(self, source: Source) -> None:
        pass

    async def asked(self, after: int) -> asyncio.Future[bytes]:
        found, answer = await asyncio.wait_for(self._questions.get(), 30)
        assert found == after
        return answer


def events(first: int, *values: bytes) -> bytes:
    return encode(Kind.EVENTS, SOURCE.id, first, list(values))


async def following(queued_events: int = 100) -> tuple[Asked, EventSubscription]:
    """A subscription that has read the state of its source."""
    plane, subscription = Asked(), EventSubscription("words", queued_events=queued_events)
    await subscription.open(cast("EventPlane", plane))
    subscription.add(SOURCE)
    (await plane.asked(NOTHING)).set_result(STATE)
    assert await subscription.take() == [(SOURCE, State(3, [b"abc"]))]
    await subscription.synced()
    return plane, subscription


async def test_it_is_told_again_although_a_gap_is_being_fetched() -> None:
    plane, subscription = await following()
    plane.received(SOURCE, events(5, b"e"))
    gap = await plane.asked(3)
    subscription.resync(SOURCE)
    gap.set_result(events(4, b"d", b"e"))
    (await plane.asked(NOTHING)).set_result(STATE)
    assert (await subscription.take())[0] == (SOURCE, State(3, [b"abc"]))
    await subscription.close()


async def test_it_is_told_again_although_the_reader_is_behind() -> None:
    plane, subscription = await following(queued_events=1)
    for number in range(4, 8):
        plane.received(SOURCE, events(number, b"x"))
    assert subscription.statistics()["overflows"] == 1
    subscription.resync(SOURCE)
    assert [type(step) for _, step in await subscription.take()] == [Events, Events]
    (await plane.asked(NOTHING)).set_result(STATE)
    assert (await subscription.take())[0] == (SOURCE, State(3, [b"abc"]))
    await subscription.close()


async def test_who_waits_for_the_state_already_gets_it_once() -> None:
    plane, subscription = await following()
    for _ in range(3):
        subscription.resync(SOURCE)
    (await plane.asked(NOTHING)).set_result(STATE)
    assert await subscription.take() == [(SOURCE, State(3, [b"abc"]))]
    plane.received(SOURCE, events(4, b"d"))
    assert await subscription.take() == [(SOURCE, Events(4, [b"d"]))]
    await subscription.close()


async def test_whatever_a_plane_raises_the_source_is_asked_again_and_it_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plane, subscription = Asked(), EventSubscription("words")
    await subscription.open(cast("EventPlane", plane))
    subscription.add(SOURCE)
    for _ in range(3):
        (await plane.asked(NOTHING)).set_exception(ZeroDivisionError("a plane of somebody else"))
    (await plane.asked(NOTHING)).set_result(STATE)
    await subscription.synced()
    assert subscription.statistics()["failed_fetches"] == 3
    assert ["a plane of somebody else" in record.getMessage() for record in caplog.records] == [True]
    await subscription.close()


async def test_what_is_lost_while_an_older_answer_is_on_its_way_is_asked_for() -> None:
    plane, subscription = Asked(), EventSubscription("words")
    await subscription.open(cast("EventPlane", plane))
    subscription.add(SOURCE)
    answer = await plane.asked(NOTHING)
    plane.received(SOURCE, b"")  # the connection is back; what came before this is lost
    answer.set_result(STATE)
    (await plane.asked(3)).set_result(events(4, b"d"))
    while (await subscription.take())[-1][1] != Events(4, [b"d"]):
        pass
    await subscription.close()
    assert plane.is_idle
