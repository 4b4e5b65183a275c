"""What a system looks like at one moment, as frozen plain data: what ``callboard ps`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from callboard.transports.base import PROTOCOL_VERSION


class State(Enum):
    """Where an actor or a process stands."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStatus:
    """One actor. ``last_error`` says why it was restarted last, ``backoff_s`` after how long a wait.

    ``counters`` come from its process.
    """

    name: str
    kind: str
    state: State
    incarnation: int
    restarts: int
    last_error: str = ""
    backoff_s: float = 0.0
    counters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """One process. ``health`` is alive, stalled or frozen, see `callboard.supervisor.liveness.Health`."""

    name: str
    pid: int
    state: State
    health: str
    incarnation: int
    restarts: int
    last_exit: str
    ready_s: float
    address: str
    log: str
    actors: tuple[ActorStatus, ...]


MOST_ANNOUNCED = 100
"""Of one actor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A line that an actor wants people to see."""

    actor: str
    text: str


def announced(entries: Sequence[Announcement], entry: Announcement) -> list[Announcement]:
    """Return the announcements with one more; of each actor the latest `MOST_ANNOUNCED` are kept. Pure."""
    own = [known for known in entries if known.actor == entry.actor]
    gone = own[0] if len(own) >= MOST_ANNOUNCED else None
    return [*(known for known in entries if known is not gone), entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStatus:
    """A whole system; ``failure`` says why it stopped by itself, else it is empty."""

    namespace: str
    plane: str
    event_plane: str
    insecure: bool
    pid: int
    state: State
    started_at_s: float
    directory: str
    processes: tuple[ProcessStatus, ...]
    announcements: tuple[Announcement, ...] = ()
    failure: str = ""
    version: str = ""
    """callboard's; empty from one that does not say it."""
    protocol: str = ""
    """Major and minor version of what its processes speak."""

    @property
    def actors(self) -> tuple[ActorStatus, ...]:
        """All actors of all processes."""
        return tuple(actor for process in self.processes for actor in process.actors)

    def process(self, name: str) -> ProcessStatus:
        """The process of that name, or the one in which the actor of that name is. Raises `LookupError`."""
        for process in self.processes:
            if name == process.name or any(actor.name == name for actor in process.actors):
                return process
        raise LookupError(f"no process or actor is called {name!r}")

    def actor(self, name: str) -> ActorStatus:
        """The actor of that name. Raises `LookupError`."""
        for actor in self.actors:
            if actor.name == name:
                return actor
        raise LookupError(f"no actor is called {name!r}")


@lru_cache(maxsize=1)
def own_versions() -> dict[str, str]:
    """The versions in `SystemStatus`, as they are here."""
    return {"version": version("callboard"), "protocol": ".".join(map(str, PROTOCOL_VERSION))}
