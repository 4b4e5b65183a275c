"""What a system shall be, as plain frozen data: actors, processes, and when they are restarted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callboard.transports.errors import ConfigError

if TYPE_CHECKING:
    from callboard.actors.policy import MailboxPolicy
    from callboard.transports.durable import DurablePolicy
    from callboard.transports.settings import NetworkSettings


class RestartKind(Enum):
    """After which end something is started again."""

    PERMANENT = "permanent"
    """After every end that was not commanded."""
    TRANSIENT = "transient"
    """After a failure, but not after a process ended by itself with exit code 0."""
    TEMPORARY = "temporary"
    """Never."""


class Strategy(Enum):
    """What else is restarted when something failed."""

    ONE_FOR_ONE = "one-for-one"
    """Nothing else."""


class EventPlane(StrEnum):
    """How events travel, independent of the request plane; a config may also name one that a package adds."""

    ZMQ = "zmq"
    NATS = "nats"
    JETSTREAM = "jetstream"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """At most ``max_restarts`` within ``window_s`` seconds, each after a wait within ``backoff_s``."""

    policy: RestartKind = RestartKind.PERMANENT
    max_restarts: int = 5
    window_s: float = 60.0
    backoff_s: tuple[float, float] = (0.1, 5.0)

    def __post_init__(self) -> None:
        problems = []
        if self.max_restarts < 0:
            problems.append(f"max_restarts is {self.max_restarts}; it must be at least 0")
        if self.window_s <= 0:
            problems.append(f"window_s is {self.window_s:g}; it must be above 0")
        shortest, longest = self.backoff_s
        if not 0 <= shortest <= longest:
            problems.append(
                f"backoff_s is [{shortest:g}, {longest:g}]; it must be the shortest and the longest wait"
            )
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSpec:
    """One component: a class, its arguments, and how many instances of it run.

    Arguments are plain data in which ``{"ref": name}`` stands for a reference; or ``payload`` holds class
    and arguments of a script, see `callboard.supervisor.payload`.
    """

    name: str
    class_path: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    replicas: int = 1
    mailbox: MailboxPolicy | None = None
    restart: RestartPolicy = RestartPolicy()
    durable: DurablePolicy | None = None
    """How tells to it are stored; None if they are not."""

    def references(self) -> list[str]:
        """The names in the references of the arguments, in order."""
        return references_in([list(self.args), dict(self.kwargs)])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A group of actors that share a process, and how many such processes run."""

    name: str
    actors: tuple[str, ...]
    count: int = 1
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take, in seconds."""

    process_start_s: float = 30.0
    """From spawning a process until its node listens."""
    actor_start_s: float = 120.0
    """From the constructor of an actor until its ``on_start`` returns."""
    stop_grace_s: float = 5.0
    """From the first step of a stop until processes are killed."""
    heartbeat_s: float = 0.5
    """Between two questions to a process whether its event loop is alive."""
    silence_s: float = 2.0
    """Without an answer for so long, a process counts as stalled; a stopped one as frozen after half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole system, as a config file describes it."""

    namespace: str
    actors: tuple[ActorSpec, ...]
    processes: tuple[ProcessSpec, ...]
    network: NetworkSettings
    event_plane: str = EventPlane.ZMQ.value
    strategy: Strategy = Strategy.ONE_FOR_ONE
    limits: Limits = Limits()
    path: Path | None = None
    import_paths: tuple[str, ...] = ()
    """Directories that children search for modules, before all others."""


def is_reference(value: Any) -> bool:
    """True for ``{"ref": "name"}``."""
    return isinstance(value, dict) and value.keys() == {"ref"} and isinstance(value["ref"], str)


def references_in(value: Any) -> list[str]:
    """Every name that a reference anywhere in ``value`` refers to."""
    if is_reference(value):
        return [value["ref"]]
    if isinstance(value, dict):
        return [name for item in value.values() for name in references_in(item)]
    if isinstance(value, list | tuple):
        return [name for item in value for name in references_in(item)]
    return []
