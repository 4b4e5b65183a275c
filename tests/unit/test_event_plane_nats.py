"""What a subscriber makes of an answer that comes over NATS, which may lose parts of it."""

from __future__ import annotations

from typing import Any, cast

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from callboard.transports.events.base import EventPlaneContext, Source
from callboard.transports.events.errors import SourceGone
from callboard.transports.events.nats import PART, WHAT, NatsEvents
from callboard.transports.settings import NetworkSettings

SOURCE = Source(topic="t", component="c", name="c.0", incarnation=1, node="n", id=7, address="there")


class Answering:
    """A NATS client whose peer answers everything with the same messages."""

    is_connected = True
    pending_data_size = 0

    def __init__(self, *messages: tuple[bytes, dict[str, str]]) -> None:
        self._messages = list(messages)

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, *_: Any, **__: Any) -> Answering:
        return self

    async def publish(self, *_: Any) -> None:
        pass

    async def unsubscribe(self) -> None:
        pass

    async def next_msg(self, _: float) -> Msg:
        data, headers = self._messages.pop(0)
        return Msg(_client=cast("Client", self), data=data, headers=headers)


def part(data: bytes, number: int, what: str = "more") -> tuple[bytes, dict[str, str]]:
    return data, {WHAT: what, PART: str(number)}


async def fetched(*messages: tuple[bytes, dict[str, str]]) -> list[bytes]:
    plane = NatsEvents(EventPlaneContext(namespace="n", node="n", settings=NetworkSettings(), directory=""))
    plane.client = cast("Client", Answering(*messages))
    return [frame async for frame in plane.ask(SOURCE, -1)]


async def test_the_parts_of_an_answer_come_in_order() -> None:
    assert await fetched(part(b"one", 0), part(b"two", 1, "last")) == [b"one", b"two"]


@pytest.mark.parametrize(
    "messages",
    [
        (part(b"one", 0), part(b"three", 2, "last")),
        (part(b"two", 1, "last"),),
        (part(b"one", 0), part(b"one", 0, "last")),
        ((b"one", {WHAT: "last"}),),
    ],
    ids=["the middle", "the first", "one twice", "without a number"],
)
async def test_an_answer_of_which_a_part_was_lost_is_none(messages: Any) -> None:
    """Without its middle a snapshot would be a wrong state."""
    with pytest.raises(SourceGone, match="part of its answer was lost"):
        await fetched(*messages)
