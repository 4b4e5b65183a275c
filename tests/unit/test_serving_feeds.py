"""What a router makes of the loads and the books that others publish."""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from callboard.actors.events import Event, Item, Left, Snapshot, Subscription
from callboard.serving.feeds import ROUTING, Feeds, _books, _caches, _loads
from callboard.serving.kv.changes import KvChanges, Removed, Stored
from callboard.serving.kv.follower import KvFollower
from callboard.serving.kv.hashing import pack_hashes
from callboard.serving.kv.publisher import Loads
from callboard.serving.kv.view import CacheView
from callboard.serving.membership import Pool
from callboard.serving.placing import Placer
from callboard.serving.protocol import RankLoad
from callboard.serving.scheduling.demand import Rank
from callboard.serving.scheduling.replica import Added, Bound, Computed, Ended, RoutingChange, RoutingChanges
from callboard.serving.scheduling.settings import RouterSettings
from callboard.transports.events.base import Source
from callboard.transports.events.errors import EventTooLarge
from callboard.transports.events.frames import EVENT_BYTES

from .serving_fakes import FakeComponent, info, journey

OWN = 99


class Said:
    """A subscription that gives what the test says, then ends."""

    def __init__(self, *items: Item[Any]) -> None:
        self._items = items
        self.asked_again: list[str] = []

    def resync(self, source: Source) -> None:
        self.asked_again.append(source.name)

    async def batches(self) -> AsyncGenerator[Sequence[Item[Any]], None]:
        for item in self._items:
            yield [item]


def source(identifier: int, name: str, incarnation: int = 1) -> Source:
    return Source(
        topic="routing",
        component=name.split(".", maxsplit=1)[0],
        name=name,
        incarnation=incarnation,
        node="n",
        id=identifier,
    )


OTHER = source(7, "router.1")


def changes(*made: RoutingChange) -> RoutingChanges:
    return RoutingChanges(list(made))


def added(name: str, worker: int) -> Added:
    return Added(name, worker, 0, 4, 16, b"")


async def placer(**options: Any) -> Placer:
    settings = RouterSettings(**{"mode": "kv"} | options)
    component = FakeComponent(info(block_size=4, total_blocks=100), info(block_size=4, total_blocks=100))
    made = Placer(
        Pool(component.ref, logging.getLogger("callboard.tests")),
        settings,
        CacheView(settings),
        actor="router.0",
    )
    made.pool.joined, made.pool.left, made.pool.changed = made.joined, made.left, made.pump
    await made.pool.start()
    return made


async def hear(made: Placer, *items: Item[RoutingChanges]) -> dict[str, Any]:
    await _books(cast("Subscription[RoutingChanges]", Said(*items)), made, OWN)
    return made.scheduler.statistics()


def load(worker: int, used: int) -> tuple[Source, Loads]:
    rank = RankLoad(dp_rank=0, running=1, waiting=0, used_blocks=used, prefill_tokens=0)
    return source(worker + 1, f"worker.{worker}"), Loads([rank])


async def test_requests_of_another_router_count_while_they_run() -> None:
    made = await placer()
    books = await hear(made, Event(OTHER, 1, changes(added("1/0", 0), added("2/0", 1), added("3/0", 1))))
    assert {name: rank["requests"] for name, rank in books["ranks"].items()} == {"0/0": 1, "1/0": 2}
    books = await hear(made, Event(OTHER, 2, changes(Computed("2/0"), Ended("3/0"))))
    assert books["ranks"]["1/0"] == {"requests": 1, "prefill_tokens": 0, "decode_blocks": 4}


async def test_a_snapshot_replaces_what_was_known_of_a_router_and_its_end_removes_it() -> None:
    made = await placer()
    await hear(made, Event(OTHER, 1, changes(added("1/0", 0), added("2/0", 0))))
    books = await hear(made, Snapshot(OTHER, 5, [changes(added("9/0", 1))]))
    assert (books["remote"], books["ranks"]["1/0"]["requests"]) == (1, 1)
    books = await hear(made, Left(OTHER, "its process is gone"))
    assert books["remote"] == 0


async def test_its_own_words_come_back_and_count_for_nothing() -> None:
    made = await placer()
    books = await hear(made, Event(source(OWN, "router.0"), 1, changes(added("1/0", 0))))
    assert books["remote"] == 0


class Plane:
    """The events of an actor, over a plane that carries no more than the real ones do."""

    plane = "memory"
    source = source(OWN, "router.0")

    def __init__(self) -> None:
        self.sent: list[RoutingChanges] = []

    async def publisher(self, _: object, *, snapshot: Callable[[], Iterable[RoutingChanges]]) -> Plane:
        self.snapshot = snapshot
        return self

    async def subscribe(self, _: object, *, component: str) -> Said:
        return Said()

    def send(self, event: RoutingChanges) -> None:
        if (size := len(ROUTING.encode(event))) > EVENT_BYTES:
            raise EventTooLarge("routing", size, EVENT_BYTES)
        self.sent.append(event)


def prompt(first: int, count: int) -> bytes:
    return array("I", range(first, first + count)).tobytes()


async def shared(made: Placer) -> tuple[Feeds, Plane]:
    plane = Plane()
    feeds = Feeds(cast("Any", SimpleNamespace(events=plane, component="router", name="router.0")))
    made.scheduler.tell = await feeds.share_books(made)
    return feeds, plane


async def test_a_burst_of_long_prompts_is_told_in_events_that_can_be_carried() -> None:
    made = await placer()
    feeds, plane = await shared(made)
    placed = [await made.place(journey(tokens=prompt(first, 16_000))) for first in range(20)]
    await asyncio.sleep(0)
    for one in placed:
        made.finish(one)
    await asyncio.sleep(0)
    told = [change for event in plane.sent for change in event.changes]
    assert [type(change) for change in told] == [Added] * 20 + [Ended] * 20
    assert [change.id for change in told[:20]] == [one.id for one in placed]
    await feeds.close()


async def test_all_that_runs_is_told_in_events_that_can_be_carried() -> None:
    made = await placer()
    feeds, plane = await shared(made)
    for tokens in [prompt(0, 140_000), *(prompt(first, 12_000) for first in range(20))]:
        await made.place(journey(tokens=tokens))
    told = list(plane.snapshot())
    assert max(len(ROUTING.encode(event)) for event in told) <= EVENT_BYTES
    first, *rest = [change for event in told for change in event.changes]
    assert len(rest) == 20
    # Too many blocks to name them: their number is what counts.
    assert isinstance(first, Added)
    assert (first.blocks, first.sequence) == (35_000, b"")
    await feeds.close()


async def test_a_session_is_where_another_router_has_put_it() -> None:
    made = await placer(session_affinity_ttl_s=60.0)
    await hear(made, Event(OTHER, 1, changes(Bound("s", 1, 0))))
    assert (await made.place(journey(session="s"))).choice.rank == Rank(1)


async def test_a_worker_that_talks_nonsense_ends_nobody_s_feed() -> None:
    view = CacheView(RouterSettings(mode="kv"))
    one, other = source(1, "worker.0"), source(2, "worker.1")
    local = pack_hashes([11, 12])
    nonsense = KvChanges(0, 4, [Stored(None, local, b"short")])
    said = Said(
        Snapshot(one, 0, [nonsense]),
        Event(one, 1, nonsense),
        Event(other, 1, KvChanges(0, 4, [Removed(b"short"), Stored(None, local, local)])),
        Event(other, 2, KvChanges(0, 4, [Stored(None, local, local)])),
    )
    await _caches(cast("Subscription[KvChanges]", said), KvFollower(view))
    assert view.overlaps(local, 0.0) == {Rank(1): 2}
    assert said.asked_again == ["worker.0", "worker.1"]


async def test_what_workers_say_of_their_load_is_heard_the_latest_last() -> None:
    made = await placer(active_decode_blocks_threshold=0.5)
    busy, idle = load(0, 90), load(1, 1)
    items: list[Item[Loads]] = [
        Snapshot(busy[0], 0, [load(0, 2)[1], busy[1]]),
        Event(idle[0], 1, load(1, 80)[1]),
        Event(idle[0], 2, idle[1]),
        Left(source(9, "worker.5"), "gone"),
    ]
    await _loads(cast("Subscription[Loads]", Said(*items)), made)
    assert made.scheduler.busy(Rank(0))
    assert not made.scheduler.busy(Rank(1))


async def test_a_late_word_of_a_dead_worker_is_not_its_successor_s() -> None:
    made = await placer(active_decode_blocks_threshold=0.5)
    dead, busy = load(0, 90)
    items: list[Item[Loads]] = [
        Event(dead, 1, busy),
        Event(source(5, "worker.0", 2), 1, load(0, 0)[1]),
        Event(dead, 2, busy),
    ]
    await _loads(cast("Subscription[Loads]", Said(*items)), made)
    assert not made.scheduler.busy(Rank(0))
