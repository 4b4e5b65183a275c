"""Death watch: who wants to know when which incarnation goes down. Each watch is told exactly once.

Three things say that an incarnation is down: the end of an actor of this process, the directory (in a system its
supervisor feeds it), and a way there that broke and cannot be made again. Whichever comes first takes the watch out
of the table, so that the others find nothing.

A watched node is dialled and its link is not closed for being idle: without a supervisor nothing else would tell.
A link that breaks proves nothing by itself, so the node is dialled once more, and again for a moment if that fails.
With a supervisor that moment is `PATIENCE_S`: what has died is announced by then, with its reason.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from callboard.transports.backoff import Backoff

from .departed import Fate
from .directory import Directory, Location, split_name
from .policy import DownKind

T = TypeVar("T")

MOMENT_S = 0.25
"""From the begin of the first dial that fails to the last."""

PATIENCE_S = 3.0
"""The same with a supervisor: as long as that may take to notice a frozen process, by default."""

BACKOFF = Backoff(0.05, 1.0)
STEADY_S = 1.0
"""A link that has held so long was no accident: the next dial is not delayed."""


class Host(Protocol):
    """What watches need from their node."""

    id: str
    directory: Directory
    supervised: bool

    def location(self, name: str) -> Location | None:
        """Where an actor of this process is, also while it starts or stops."""

    def reach(self, location: Location) -> bool:
        """Dial the node of a location; False if there is a link or a dial under way."""


class Watching:
    """One watch in the table."""

    __slots__ = ("_told", "_watches", "key")

    def __init__(self, watches: Watches, told: Callable[[Fate], object]) -> None:
        self._watches = watches
        self._told: Callable[[Fate], object] | None = told
        self.key: tuple[str, int] | None = None
        """Node and number of the incarnation; None if it was down from the beginning."""

    @property
    def over(self) -> bool:
        """True once it was told, or cancelled."""
        return self._told is None

    def tell(self, fate: Fate) -> None:
        """The incarnation is down; only the first to say so is heard."""
        told, self._told = self._told, None
        if told is not None:
            told(fate)

    def cancel(self) -> None:
        """Do not tell; idempotent."""
        self._told = None
        self._watches.forget(self)


class _Way:
    """The watched incarnations of one other node, by number, and how it is with the way there."""

    __slots__ = ("by_number", "dialled_s", "failing_s", "retry", "tries")

    def __init__(self) -> None:
        self.by_number: dict[int, tuple[Location, dict[Watching, None]]] = {}
        self.dialled_s = monotonic()
        self.failing_s: float | None = None
        """Since when no dial has worked, by when the first of them began; None: none has failed."""
        self.tries = 0
        self.retry: asyncio.TimerHandle | None = None


class Watches:
    """All watches of one node."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._ways: dict[str, _Way] = {}
        self._closed = ""

    def __repr__(self) -> str:
        return f"<Watches {len(self)} open, of {len(self._ways)} nodes>"

    def __len__(self) -> int:
        return sum(len(found) for way in self._ways.values() for _, found in way.by_number.values())

    def __contains__(self, node: str) -> bool:
        """True if something on a node is watched."""
        return node in self._ways

    def watch(self, name: str, told: Callable[[Fate], object]) -> Watching:
        """Watch the current incarnation of an instance; ``told`` is called once, never before this returns.

        If none is up that is soon. Raises `ValueError` for the name of a component: that has many lives.
        """
        host, watching = self._host, Watching(self, told)
        location = host.location(name) or host.directory.get(name)
        if location is None or self._closed:
            fate = self._closed_fate(location) if self._closed else self._fate_of(name)
            asyncio.get_running_loop().call_soon(watching.tell, fate)
            return watching
        watching.key = location.node, location.number
        way = self._ways.get(location.node)
        if way is None:
            way = self._ways[location.node] = _Way()
        way.by_number.setdefault(location.number, (location, {}))[1][watching] = None
        if location.node != host.id:
            # Not at once: a dial that fails in this very step would tell before the caller has its watch.
            asyncio.get_running_loop().call_soon(self._reach, location)
        return watching

    def _fate_of(self, name: str) -> Fate:
        directory = self._host.directory
        fate = directory.fate(name)
        if fate is not None:
            return fate
        if split_name(name)[1] is None:
            raise ValueError(
                f"{name} is no instance that is known here: watch one instance, ref.instance(0), or each of"
                " ref.instances()"
            )
        return Fate(0, DownKind.UNKNOWN, "no actor of this name is known here")

    def _closed_fate(self, location: Location | None) -> Fate:
        return Fate(location.incarnation if location else 0, DownKind.UNREACHABLE, self._closed)

    def forget(self, watching: Watching) -> None:
        """Take a watch out of the table."""
        node, number = watching.key or ("", 0)
        way = self._ways.get(node)
        if way is not None and number in way.by_number:
            found = way.by_number[number][1]
            found.pop(watching, None)
            if not found:
                self._take(way, node, number)

    def _take(self, way: _Way, node: str, number: int) -> dict[Watching, None]:
        _, found = way.by_number.pop(number)
        if not way.by_number:
            self._ways.pop(node, None)
            if way.retry is not None:
                way.retry.cancel()
        return found

    # -- what happens

    def gone(self, location: Location, fate: Fate) -> None:
        """An incarnation is down."""
        way = self._ways.get(location.node)
        if way is not None and location.number in way.by_number:
            for watching in self._take(way, location.node, location.number):
                watching.tell(fate)

    def ended(self, location: Location) -> None:
        """An actor of this process has ended; why, the directory knows, if it was ever up."""
        never_up = Fate(location.incarnation, DownKind.FAILED, "it did not start")
        self.gone(location, self._host.directory.fate(location.name) or never_up)

    def left_directory(self, location: Location, fate: Fate) -> None:
        """The directory lost an entry. Of an actor of this process that is only the beginning of its end."""
        if location.node != self._host.id:  # news of a later one may come first, and means this one too
            self.gone(location, fate._replace(incarnation=location.incarnation))

    def way_down(self, node: str, why: str, *, was_up: bool) -> None:
        """A link to a node went down, or could not be made."""
        way = self._ways.get(node)
        if way is None or self._closed:
            return
        now = monotonic()
        if was_up:
            way.failing_s = None
            way.tries = 0 if now - way.dialled_s > STEADY_S else way.tries
        else:
            way.failing_s = way.dialled_s if way.failing_s is None else way.failing_s
            if now - way.failing_s >= (PATIENCE_S if self._host.supervised else MOMENT_S):
                for location, _ in list(way.by_number.values()):
                    self.gone(location, Fate(location.incarnation, DownKind.UNREACHABLE, why))
                return
        if way.retry is None:
            delay_s = BACKOFF.delay_s(way.tries - 1, random.random()) if way.tries else 0
            way.tries += 1
            way.retry = asyncio.get_running_loop().call_later(delay_s, self._again, node, way)

    def _again(self, node: str, way: _Way) -> None:
        way.retry = None
        location, _ = next(iter(way.by_number.values()))
        self._reach(location)

    def _reach(self, location: Location) -> None:
        way = self._ways.get(location.node)
        if way is not None and way.retry is None and self._host.reach(location):
            way.dialled_s = monotonic()

    def close(self, why: str) -> None:
        """Nothing more will be heard of anybody: tell all who still watch."""
        self._closed = why
        for way in list(self._ways.values()):
            for location, _ in list(way.by_number.values()):
                self.gone(location, self._closed_fate(location))


class AwaitableWatch(Generic[T]):
    """A watch outside actors: await it for the one news, or leave ``async with`` before. Abandoned, it is cancelled."""

    __slots__ = ("_future", "_watching")

    def __init__(self, watches: Watches, name: str, news: Callable[[Fate], T]) -> None:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def told(fate: Fate) -> None:  # knows the future only: whoever drops the watch ends it
            if not future.done():
                future.set_result(news(fate))

        self._future = future
        self._watching: Watching = watches.watch(name, told)

    def __repr__(self) -> str:
        state = "over" if self._future.done() else "open"
        return f"<AwaitableWatch {state}>"

    def __await__(self) -> Generator[Any, None, T]:
        return (yield from asyncio.shield(self._future).__await__())  # holds this watch meanwhile

    async def __aenter__(self) -> AwaitableWatch[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Watch no more; idempotent. Who waits for it gets `asyncio.CancelledError`, unless it has come."""
        self._watching.cancel()
        self._future.cancel()

    def __del__(self) -> None:
        watching = getattr(self, "_watching", None)  # there is none if its name was refused
        if watching is not None:
            watching.cancel()
