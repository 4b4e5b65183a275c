"""From a name to the way there: which instance a message goes to, and what is wrong if there is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol
from weakref import WeakValueDictionary

from .directory import Directory, Location, split_name
from .errors import ActorNotFound, ActorUnavailable
from .local import LocalRoute
from .outlet import Outlet
from .policy import Executed

Route = Outlet | LocalRoute

KEPT = 1000
"""Targets that are kept although no reference has them."""


class Host(Protocol):
    """What a target needs from its node."""

    directory: Directory
    epoch: int
    """Changes whenever a way may have changed: the directory, or a link that went down."""

    def route(self, location: Location) -> Route:
        """The way to one actor incarnation."""


class Target:
    """One name as seen from one node: an instance has one way, a component takes turns among its own."""

    __slots__ = ("__weakref__", "_epoch", "_host", "_routes", "_turn", "durable", "is_component", "name")

    def __init__(self, host: Host, name: str, *, is_component: bool) -> None:
        self._host = host
        self._epoch = -1
        self._routes: list[Route] = []
        self._turn = 0
        self.name = name
        self.is_component = is_component
        self.durable = False
        """Tells to it are stored."""

    def __repr__(self) -> str:
        return f"<Target {self.name}, {len(self.locations())} instances>"

    def locations(self) -> list[Location]:
        """Every incarnation that the name stands for now."""
        directory = self._host.directory
        exact = directory.get(self.name)
        return [exact] if exact is not None else list(directory.instances(self.name))

    def pick(self) -> Route:
        """Return the way to take; raises `ActorUnavailable` or `ActorNotFound`."""
        if self._epoch != self._host.epoch:
            self._rebuild()
        routes = self._routes
        count = len(routes)
        if count == 1:
            return routes[0]
        if not count:
            raise self.missing()
        turn = self._turn = (self._turn + 1) % count
        return routes[turn]

    def pick_outside(self, chain: Sequence[str]) -> Route:
        """Like `pick`, but not one of those that wait for the message already, where there is another."""
        route = self.pick()
        for _ in self._routes:
            if route.location.name not in chain:
                break
            route = self.pick()
        return route

    def pick_beside(self, failed: Sequence[Location], avoid: Sequence[str] = ()) -> Route | None:
        """Return a way that has not failed, else one that has failed once, else None; none to who is in ``avoid``."""
        if self._epoch != self._host.epoch:
            self._rebuild()
        for times in (0, 1):
            routes = [
                route
                for route in self._routes
                if sum(route.location is location for location in failed) == times
                and route.location.name not in avoid
            ]
            if routes:
                turn = self._turn = self._turn + 1
                return routes[turn % len(routes)]
        return None

    def _rebuild(self) -> None:
        self._routes = []
        for location in self.locations():
            with contextlib.suppress(ActorUnavailable):  # gone already; the others serve
                self._routes.append(self._host.route(location))
        self._epoch = self._host.epoch

    def missing(self) -> ActorNotFound | ActorUnavailable:
        """The error for a name that leads nowhere now."""
        directory = self._host.directory
        reason = directory.down_reason(self.name)
        if self.locations():
            reason = "it has just been stopped"
        if reason is None:
            return ActorNotFound.named(self.name, directory.names())
        incarnation = directory.down_incarnation(self.name)
        return ActorUnavailable(reason, actor=self.name, incarnation=incarnation, executed=Executed.NEVER)

    async def up(self, beside: Sequence[Location] = (), avoid: Sequence[str] = ()) -> None:
        """Return when the name leads somewhere else than ``beside`` and ``avoid``; `ActorNotFound` if it is unknown."""
        while all(one.name in avoid or any(one is other for other in beside) for one in self.locations()):
            error = None if self.locations() else self.missing()
            if isinstance(error, ActorNotFound):
                raise error
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(future: asyncio.Future[None] = changed) -> None:
                if not future.done():
                    future.set_result(None)

            end = self._host.directory.on_change(wake)
            try:
                await changed
            finally:
                end()


class Targets:
    """One target per name, as long as a reference has it. The latest are kept besides: their references come again."""

    __slots__ = ("_by_name", "_host", "_latest")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_name: WeakValueDictionary[str, Target] = WeakValueDictionary()
        self._latest: deque[Target] = deque(maxlen=KEPT)

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Target]:
        return iter(list(self._by_name.values()))

    def __repr__(self) -> str:
        return f"<Targets {len(self)}>"

    def get(self, name: str) -> Target | None:
        """The target of a name, if there is one."""
        return self._by_name.get(name)

    def add(self, name: str) -> Target:
        """Make the target of a name."""
        target = Target(self._host, name, is_component=split_name(name)[1] is None)
        self._by_name[name] = target
        self._latest.append(target)
        return target
