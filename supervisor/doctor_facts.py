"""What `callboard doctor` has looked at, as frozen plain data: its checks judge nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from callboard.transports.settings import NetworkSettings

from .spec import Config
from .status import SystemStatus


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and will hurt some day or is not what it looks like."""
    PROBLEM = "problem"
    """It does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. ``check`` is its name on the troubleshooting page, ``do`` what to do about it."""

    check: str
    level: Level
    text: str
    do: str = ""


class Reach(Enum):
    """What came of an attempt to talk to something."""

    ANSWERS = "answers"
    REFUSED = "refused"
    """Nobody listens there."""
    BLOCKED = "blocked"
    """Not even a connection is made: what is sent disappears."""
    SILENT = "silent"
    """A connection is made, and nothing is said on it."""
    REJECTED = "rejected"
    """It answers, and does not want us: version, credentials, encryption."""
    FAILED = "failed"
    """Something else, as the text says."""


class NatsStage(Enum):
    """How far an attempt to use NATS came."""

    CONNECT = "connect"
    TLS = "tls"
    CREDENTIALS = "credentials"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsFacts:
    """A NATS server, as somebody with these settings sees it. What is unknown is empty, 0 or None."""

    where: str
    stage: NatsStage
    error: str = ""
    version: str = ""
    max_payload_bytes: int = 0
    below: str = ""
    """What the subjects of the namespace begin with."""
    denied: str = ""
    """What keeps this user from talking in the namespace, although the server lets it in."""
    jetstream: bool = False
    jetstream_denied: str = ""
    """What keeps this user from JetStream, which may be on."""
    ahead_s: float | None = None
    """How far its clock is ahead of ours."""
    within_s: float = 0.0
    """How exactly that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFacts:
    """A running process, as somebody who dials it sees it."""

    process: str
    address: str
    reach: Reach
    text: str = ""
    health: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFacts:
    """A port that the config fixes. ``user`` is who wants it, ``holder`` who has it now (empty: nobody)."""

    user: str
    host: str
    port: int
    holder: str = ""
    is_ours: bool = False
    """The running system of the config holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemFacts:
    """A running system of this user; without status it did not answer, as ``error`` says."""

    directory: str
    status: SystemStatus | None = None
    settings: NetworkSettings | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything."""

    file: str
    version: str
    protocol: str
    config: Config
    processes: int
    """How many the config starts."""
    warnings: tuple[str, ...] = ()
    """What was said while the config was read."""
    environ: Mapping[str, str] = field(default_factory=dict)
    nats_embedded: bool = False
    nats_server: str = ""
    """The program that an embedded NATS would run; empty if there is none."""
    nats_server_error: str = ""
    mine: SystemFacts | None = None
    """The running system that the config describes."""
    others: tuple[SystemFacts, ...] = ()
    nats: NatsFacts | None = None
    """As file and environment lead to it; None if nothing of them uses NATS."""
    nats_running: NatsFacts | None = None
    """As the settings of the running system lead to it; None if it does not use NATS."""
    peers: tuple[PeerFacts, ...] = ()
    ports: tuple[PortFacts, ...] = ()
    soft_descriptors: int = 0
    hard_descriptors: int = 0


def brings_nats(system: SystemFacts | None) -> bool:
    """True if a running system has started a NATS of its own."""
    if system is None or system.status is None:
        return False
    return any(entry.actor == "nats-server" for entry in system.status.announcements)


def uses_nats(config: Config) -> bool:
    """True if a plane of the config is on NATS."""
    planes = {config.network.request_plane, config.event_plane}
    return not planes.isdisjoint(("nats", "jetstream"))


def needs_jetstream(config: Config) -> bool:
    """True if the config stores anything in NATS."""
    durable = any(actor.durable is not None for actor in config.actors)
    return durable or config.event_plane == "jetstream"
