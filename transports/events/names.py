"""Which event planes there are, by name.

A third party adds one by an entry point in the group ``callboard.event_planes``.
"""

from __future__ import annotations

from ..errors import did_you_mean
from ..named_planes import NamedPlanes

PLANES = NamedPlanes(
    "callboard.event_planes",
    {
        "zmq": "callboard.transports.events.zmq:ZmqEvents",
        "nats": "callboard.transports.events.nats:NatsEvents",
        "jetstream": "callboard.transports.events.jetstream:JetStreamEvents",
        "none": "callboard.transports.events.none:NoEvents",
        "memory": "callboard.transports.events.memory:MemoryEvents",
    },
)
DEFAULT = "zmq"
WITHIN_ONE_PROCESS = "memory"


def known_event_planes() -> tuple[str, ...]:
    """Every name that a system of processes can use here."""
    return tuple(name for name in PLANES.names() if name != WITHIN_ONE_PROCESS)


def unknown_event_plane(name: str) -> str:
    """The text for a name that stands for no event plane between processes."""
    known = known_event_planes()
    return f"invalid event plane {name!r}; valid are: {', '.join(known)}{did_you_mean(name, known)}"
