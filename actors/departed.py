"""The names that are down: why, and which incarnation it was. Pure.

Names come and go for as long as a system runs, so only the latest are remembered: whoever asks for one that was
forgotten hears that it is unknown. The order of incarnations needs no more than that, because it guards against news
that cross on their way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .policy import DownKind

MOST = 1000


class Fate(NamedTuple):
    """What became of an incarnation."""

    incarnation: int
    """0 if none was ever known."""
    kind: DownKind
    reason: str


class Departed:
    """Names to the incarnation that is down and the reason, the latest ``most`` of them."""

    __slots__ = ("_entries", "_most")

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._entries: dict[str, Fate] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __repr__(self) -> str:
        return f"<Departed {len(self)} of at most {self._most}>"

    def note(self, name: str, incarnation: int, reason: str, kind: DownKind = DownKind.UNKNOWN) -> None:
        """This incarnation is down."""
        self._entries.pop(name, None)  # so that it is the latest
        self._entries[name] = Fate(incarnation, kind, reason)
        if len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]

    def drop(self, name: str) -> None:
        """The name is up again, or forgotten."""
        self._entries.pop(name, None)

    def incarnation(self, name: str) -> int:
        """The incarnation that is down; 0 if the name is not among these."""
        fate = self._entries.get(name)
        return 0 if fate is None else fate.incarnation

    def reason(self, name: str) -> str | None:
        """Why it is down; None if the name is not among these."""
        fate = self._entries.get(name)
        return None if fate is None else fate.reason

    def fate(self, name: str) -> Fate | None:
        """What became of it; None if the name is not among these."""
        return self._entries.get(name)

    def fates(self) -> Iterator[tuple[str, Fate]]:
        """Name and what became of it, the latest last."""
        return iter(self._entries.items())

    def items(self) -> Iterator[tuple[str, int, str]]:
        """Name, incarnation and reason, the latest last."""
        return ((name, incarnation, reason) for name, (incarnation, _, reason) in self._entries.items())
