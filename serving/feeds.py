"""What a router hears over the event plane: the workers' caches and loads, and what its other instances do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

from callboard.actors.actor import ActorContext
from callboard.actors.directory import split_name
from callboard.actors.events import Event, Left, Snapshot, Subscription, Topic
from callboard.transports.events.errors import SnapshotFailed

from .kv.changes import KvChanges
from .kv.follower import KvFollower
from .kv.publisher import KV, LOAD, Loads
from .kv.view import CacheView
from .placing import Placer
from .scheduling.replica import RoutingChange, RoutingChanges, in_events

ROUTING = Topic("routing", RoutingChanges)

FIRST_STATE_S = 2.0
"""How long a router that starts waits for the state of the workers that are there; it begins without it after that."""

log = logging.getLogger("callboard.serving.router")


class Feeds:
    """The subscriptions of one router, each with a task that reads it."""

    def __init__(self, context: ActorContext) -> None:
        self._context = context
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriptions: dict[str, Subscription[Any]] = {}
        self.followers: dict[str, KvFollower] = {}
        """By component."""

    def __repr__(self) -> str:
        return f"<Feeds {', '.join(self._subscriptions) or 'none'}>"

    async def follow_caches(self, component: str, view: CacheView) -> None:
        """Keep a view of caches as the workers of a component publish it."""
        follower = self.followers[component] = KvFollower(view)
        subscription = await self._context.events.subscribe(KV, component=component)
        self._read(f"kv of {component}", subscription, lambda: _caches(subscription, follower))
        with suppress(TimeoutError, SnapshotFailed):  # one worker's trouble does not stop a router
            async with asyncio.timeout(FIRST_STATE_S):
                await subscription.synced()

    async def follow_loads(self, component: str, placer: Placer) -> None:
        """Tell a placer what the workers of a component have to do."""
        subscription = await self._context.events.subscribe(LOAD, component=component)
        self._read(f"load of {component}", subscription, lambda: _loads(subscription, placer))

    async def share_books(self, placer: Placer) -> Callable[[RoutingChange], object]:
        """Exchange what runs where with the other instances of this router; returns what to tell of each change."""
        events = self._context.events
        publisher = await events.publisher(
            ROUTING, snapshot=lambda: in_events(placer.scheduler.snapshot(time.monotonic()))
        )
        own = publisher.source.id
        subscription = await events.subscribe(ROUTING, component=self._context.component)
        self._read("routing", subscription, lambda: _books(subscription, placer, own))
        fresh: list[RoutingChange] = []

        def flush() -> None:
            changes = fresh.copy()
            fresh.clear()  # first: whatever becomes of these, the next ones are told
            for event in in_events(changes):
                publisher.send(event)

        def tell(change: RoutingChange) -> None:
            if not fresh:
                asyncio.get_running_loop().call_soon(flush)
            fresh.append(change)

        return tell

    def _read(self, name: str, subscription: Subscription[Any], work: Callable[[], Awaitable[None]]) -> None:
        self._subscriptions[name] = subscription

        async def run() -> None:
            try:
                await work()
            except Exception:  # routing goes on by what is known
                log.exception("%s: the events of topic %s are no longer followed", self._context.name, name)

        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(run(), name=f"events of {name}", context=Context()))

    def statistics(self) -> dict[str, Any]:
        """Return the counters of each subscription."""
        found: dict[str, Any] = {name: dict(one.statistics()) for name, one in self._subscriptions.items()}
        for component, follower in self.followers.items():
            found[f"follower of {component}"] = {
                "events": follower.events, "blocks": follower.blocks, "orphans": follower.orphans,
            }  # fmt: skip
        return found

    async def close(self) -> None:
        """Read no more; the subscriptions end with the actor."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _caches(subscription: Subscription[KvChanges], follower: KvFollower) -> None:
    async for items in subscription.batches():
        for item in items:
            if follower.take(item):
                subscription.resync(item.source)
        await asyncio.sleep(0)  # a flood of events must not keep requests waiting


async def _loads(subscription: Subscription[Loads], placer: Placer) -> None:
    latest: dict[int, int] = {}
    async for items in subscription.batches():
        for item in items:
            worker = split_name(item.source.name)[1] or 0
            # A last word of the dead that comes late would stand for ever: an idle successor has nothing to say.
            if item.source.incarnation < latest.get(worker, 0):
                continue
            latest[worker] = item.source.incarnation
            if isinstance(item, Event):
                placer.reported(worker, item.value.ranks)
            elif isinstance(item, Snapshot):
                for value in item.values[-1:]:
                    placer.reported(worker, value.ranks)


async def _books(subscription: Subscription[RoutingChanges], placer: Placer, own: int) -> None:
    scheduler = placer.scheduler
    async for items in subscription.batches():
        now_s = time.monotonic()
        for item in items:
            router = item.source.id
            if router == own:
                continue
            if isinstance(item, Left):
                scheduler.drop_router(router)
            elif isinstance(item, Snapshot):
                scheduler.drop_router(router)
                for value in item.values:
                    scheduler.apply(router, value.changes, now_s)
            elif isinstance(item, Event):
                scheduler.apply(router, item.value.changes, now_s)
        placer.pump()  # what ended there may be what somebody waits for here
