"""Which event planes there are, by name. Built-ins are named by strings, so that knowing one costs no import.

A third party adds one by an entry point in the group ``callboard.event_planes``.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points

from ..errors import did_you_mean

GROUP = "callboard.event_planes"
BUILT_IN = {
    "zmq": "callboard.transports.events.zmq:ZmqEvents",
    "nats": "callboard.transports.events.nats:NatsEvents",
    "jetstream": "callboard.transports.events.jetstream:JetStreamEvents",
    "none": "callboard.transports.events.none:NoEvents",
    "memory": "callboard.transports.events.memory:MemoryEvents",
}
DEFAULT = "zmq"
WITHIN_ONE_PROCESS = "memory"


@lru_cache(maxsize=1)
def _entry_points() -> dict[str, str]:
    return {point.name: f"{point.module}:{point.attr}" for point in entry_points(group=GROUP)}


def class_path(name: str) -> str | None:
    """Return where an event plane is (``module:Class``), or None if nobody knows the name."""
    return BUILT_IN.get(name) or _entry_points().get(name)


def known_event_planes() -> tuple[str, ...]:
    """Every name that a system of processes can use here."""
    return tuple(name for name in {**BUILT_IN, **_entry_points()} if name != WITHIN_ONE_PROCESS)


def unknown_event_plane(name: str) -> str:
    """The text for a name that stands for no event plane between processes."""
    known = known_event_planes()
    return f"invalid event plane {name!r}; valid are: {', '.join(known)}{did_you_mean(name, known)}"
