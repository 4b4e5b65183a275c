"""Which request planes there are, by scheme.

A third party adds a plane by an entry point in the group ``callboard.planes``, named as its scheme; the schemes of the
built-in planes are taken.
"""

from __future__ import annotations

from .errors import did_you_mean
from .named_planes import NamedPlanes

PLANES = NamedPlanes(
    "callboard.planes",
    {
        "tcp": "callboard.transports.tcp:TcpPlane",
        "ipc": "callboard.transports.tcp:IpcPlane",
        "nats": "callboard.transports.nats:NatsPlane",
        "memory": "callboard.transports.memory:MemoryPlane",
    },
)


def known_schemes() -> tuple[str, ...]:
    """Every scheme that can be used here, in alphabetical order."""
    return tuple(sorted(PLANES.names()))


def unknown_plane(scheme: str) -> str:
    """The text for a mode that nobody knows."""
    known = known_schemes()
    return (
        f"invalid request plane mode {scheme!r}; valid are: {', '.join(known)}{did_you_mean(scheme, known)}"
    )
