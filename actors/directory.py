"""Who is where: names to incarnations. Pure; the supervisor (or a plane's discovery) feeds it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .departed import Departed, Fate
from .policy import DownKind

DEFAULT_WINDOW = 1024
"""Messages that one process may have waiting in one mailbox, unless the mailbox is smaller."""

DEFAULT_WINDOW_BYTES = 16 * 1024 * 1024
"""The same in bytes; one message may always pass, however large."""


@dataclass(frozen=True, slots=True)
class Location:
    """One incarnation of one actor. ``number`` is never reused within a node, ``node`` never at all."""

    name: str
    node: str
    address: str
    number: int
    incarnation: int = 1
    window: int = DEFAULT_WINDOW
    window_bytes: int = DEFAULT_WINDOW_BYTES

    def to_wire(self) -> list[Any]:
        """The location as plain data."""
        return [
            self.name, self.node, self.address, self.number, self.incarnation, self.window, self.window_bytes,
        ]  # fmt: skip

    @classmethod
    def from_wire(cls, fields: list[Any]) -> Location:
        """The inverse of `to_wire`; unknown fields at the end are ignored."""
        name, node, address, number, incarnation, window, window_bytes = fields[:7]
        return cls(
            str(name), str(node), str(address), int(number), int(incarnation),
            max(1, int(window)), max(1, int(window_bytes)),
        )  # fmt: skip


def split_name(name: str) -> tuple[str, int | None]:
    """Split ``"worker.3"`` into ``("worker", 3)``, ``"worker"`` into ``("worker", None)``.

    >>> split_name("worker.3"), split_name("worker")
    (('worker', 3), ('worker', None))
    """
    component, dot, index = name.rpartition(".")
    if dot and index.isdecimal():
        return component, int(index)
    return name, None


Listener = Callable[[], None]


class Directory:
    """Names to current incarnations, with the dead remembered by name so that "down" differs from "unknown"."""

    def __init__(self) -> None:
        self.version = 0
        self._by_name: dict[str, Location] = {}
        self._components: dict[str, list[Location]] = {}
        self._down = Departed()
        self._listeners: list[Listener] = []
        self.on_gone: Callable[[Location, Fate], object] | None = None
        """Told of each location that leaves."""

    def __repr__(self) -> str:
        return f"<Directory {len(self._by_name)} up, {len(self._down)} down, version {self.version}>"

    def add(self, location: Location) -> None:
        """Enter an incarnation; an older one than the known is ignored, whether that is up or down."""
        present = self._by_name.get(location.name)
        known = present.incarnation if present else self._down.incarnation(location.name)
        if known > location.incarnation:
            return
        self._by_name[location.name] = location
        self._down.drop(location.name)
        self._changed(location.name)
        if present is not None and (present.node, present.number) != (location.node, location.number):
            why = f"incarnation {location.incarnation} has taken its place"
            self._gone(present, Fate(present.incarnation, DownKind.UNKNOWN, why))

    def remove(self, name: str, incarnation: int, reason: str, kind: DownKind = DownKind.UNKNOWN) -> None:
        """Mark an incarnation as down; a newer one stays.

        One that was never up here counts, too: who comes while it is down is told so, not that it is unknown.
        """
        present = self._by_name.get(name)
        if present is not None and present.incarnation <= incarnation:
            del self._by_name[name]
            self._down.note(name, incarnation, reason, kind)
            fate = Fate(incarnation, kind, reason)
            self._changed(name)
            self._gone(present, fate)
        elif present is None and self._down.incarnation(name) < incarnation:
            self._down.note(name, incarnation, reason, kind)
            self._changed(name)

    def node_down(self, node: str, reason: str, kind: DownKind = DownKind.UNKNOWN) -> list[Location]:
        """Mark everything on a node as down and return it."""
        gone = [location for location in self._by_name.values() if location.node == node]
        for location in gone:
            self.remove(location.name, location.incarnation, reason, kind)
        return gone

    def forget(self, name: str) -> None:
        """Drop a name for good: it is unknown from now on."""
        self._by_name.pop(name, None)
        self._down.drop(name)
        self._changed(name)

    def get(self, name: str) -> Location | None:
        """The current incarnation of an instance, or None."""
        return self._by_name.get(name)

    def instances(self, component: str) -> list[Location]:
        """The current incarnations of a component, in the order of their index."""
        return self._components.get(component, [])

    def fate(self, name: str) -> Fate | None:
        """What became of the last incarnation of an instance, or None if it is unknown or up."""
        return self._down.fate(name)

    def down_reason(self, name: str) -> str | None:
        """Why a known name (of an instance or a component) is down, or None if it is unknown or up."""
        reason = self._down.reason(name)
        if reason is not None:
            return reason
        return next((why for known, _, why in self._down.items() if split_name(known)[0] == name), None)

    def down_incarnation(self, name: str) -> int:
        """The last incarnation of an instance that is down; 0 for anything else."""
        return self._down.incarnation(name)

    def names(self) -> list[str]:
        """Every name known: components and instances, up or down."""
        known = set(self._by_name) | set(self._down)
        return sorted(known | {split_name(name)[0] for name in known})

    def on_change(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after each change; returns the function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def _gone(self, location: Location, fate: Fate) -> None:
        if self.on_gone is not None:
            self.on_gone(location, fate)

    def _changed(self, name: str) -> None:
        component, _ = split_name(name)
        present = list(self._components.get(component, ()))  # who has the old list keeps it as it is
        at = bisect_left(present, _number(name), key=_index)
        while at < len(present) and _index(present[at]) == _number(name):
            if present[at].name == name:
                del present[at]
                break
            at += 1
        location = self._by_name.get(name)
        if location is not None:
            present.insert(at, location)
        if present:
            self._components[component] = present
        else:
            self._components.pop(component, None)
        self.version += 1
        for listener in tuple(self._listeners):
            listener()


def _index(location: Location) -> int:
    return _number(location.name)


def _number(name: str) -> int:
    return split_name(name)[1] or 0
