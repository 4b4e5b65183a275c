"""What a subscription fetches, over a plane that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from callboard.transports.events.base import Source
from callboard.transports.events.frames import Kind, encode
from callboard.transports.events.inflow import Events
from callboard.transports.events.subscription import EventSubscription

SOURCE = Source(topic="words", component="speaker", name="speaker.0", incarnation=1, node="n", id=7)


class Asked:
    """A plane of one source; each question waits for its answer."""

    def __init__(self) -> None:
        self.questions: asyncio.Queue[tuple[int, asyncio.Future[bytes]]] = asyncio.Queue()
        self.received: Any = None

    async def next(self) -> tuple[int, asyncio.Future[bytes]]:
        return await asyncio.wait_for(self.questions.get(), 30)

    async def subscriber(self, topic: str, received: Any) -> Asked:
        self.received = received
        return self

    async def follow(self, source: Source) -> None:
        pass

    def unfollow(self, source: Source) -> None:
        pass

    async def fetch(self, source: Source, after: int) -> AsyncIterator[bytes]:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.questions.put_nowait((after, answer))
        yield await answer

    def statistics(self) -> Mapping[str, int]:
        return {}

    async def close(self) -> None:
        pass


def events(first: int, *values: bytes) -> bytes:
    return encode(Kind.EVENTS, SOURCE.id, first, list(values))


async def test_what_is_lost_while_an_older_answer_is_on_its_way_is_asked_for() -> None:
    plane, subscription = Asked(), EventSubscription("words")
    await subscription.open(plane)  # type: ignore[arg-type]
    subscription.add(SOURCE)
    _, answer = await plane.next()
    plane.received(SOURCE, b"")  # the connection is back; what came before this is lost
    answer.set_result(encode(Kind.STATE_END, SOURCE.id, 3, [b"abc"]))
    after, answer = await plane.next()
    assert after == 3
    answer.set_result(events(4, b"d"))
    while True:
        taken = await subscription.take()
        if taken[-1][1] == Events(4, [b"d"]):
            break
    await subscription.close()
    assert plane.questions.empty()
