"""What a subscriber makes of the bytes of events: values of the topic's type, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from callboard.actors.events import Event, Item, NodeEvents, Snapshot, Subscription, Topic
from callboard.transports.events.base import Source
from callboard.transports.events.inflow import Events, State, Step
from callboard.transports.events.subscription import EventSubscription

MAYBE: Topic[Any] = Topic("maybe", cast("type[Any]", int | None))
SOURCE = Source(topic="maybe", component="c", name="c.0", incarnation=1, node="n", id=7)


class Said:
    """A subscription that gives what the test says, then ends."""

    def __init__(self, *steps: Step) -> None:
        self._steps = list(steps)

    async def take(self) -> Sequence[tuple[Source, Step]]:
        return [(SOURCE, self._steps.pop(0))] if self._steps else []


async def heard(*steps: Step) -> tuple[list[Item[Any]], int]:
    subscription = Subscription(MAYBE, cast("EventSubscription", Said(*steps)), cast("NodeEvents", None))
    return [item async for item in subscription], subscription.undecodable


async def test_nothing_is_a_value_like_others() -> None:
    one, nothing = MAYBE.encode(1), MAYBE.encode(None)
    assert await heard(State(2, [one, nothing]), Events(3, [nothing, one])) == (
        [Snapshot(SOURCE, 2, [1, None]), Event(SOURCE, 3, None), Event(SOURCE, 4, 1)], 0,
    )  # fmt: skip


async def test_what_is_not_of_the_type_is_left_out_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, one = b"\xa3abc", MAYBE.encode(1)
    assert await heard(State(2, [bad]), Events(3, [bad, one])) == (
        [Snapshot(SOURCE, 2, []), Event(SOURCE, 4, 1)],
        2,
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"]
