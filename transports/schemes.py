"""Which planes there are, by scheme. Built-ins are named by strings, so that knowing a plane costs no import.

A third party adds a plane by an entry point in the group ``callboard.planes``, named as its scheme; the schemes of the
built-in planes are taken.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points

from .errors import did_you_mean

GROUP = "callboard.planes"

BUILT_IN = {
    "tcp": "callboard.transports.tcp:TcpPlane",
    "ipc": "callboard.transports.tcp:IpcPlane",
    "nats": "callboard.transports.nats:NatsPlane",
    "memory": "callboard.transports.memory:MemoryPlane",
}


@lru_cache(maxsize=1)
def _entry_points() -> dict[str, str]:
    return {point.name: f"{point.module}:{point.attr}" for point in entry_points(group=GROUP)}


def class_path(scheme: str) -> str | None:
    """Return where the plane of a scheme is (``module:Class``), or None if nobody knows the scheme."""
    return BUILT_IN.get(scheme) or _entry_points().get(scheme)


def known_schemes() -> tuple[str, ...]:
    """Every scheme that can be used here, in alphabetical order."""
    return tuple(sorted({*BUILT_IN, *_entry_points()}))


def unknown_plane(scheme: str) -> str:
    """The text for a mode that nobody knows."""
    known = known_schemes()
    return (
        f"invalid request plane mode {scheme!r}; valid are: {', '.join(known)}{did_you_mean(scheme, known)}"
    )
