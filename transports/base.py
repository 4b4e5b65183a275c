"""The seam between the runtime and a request plane: frames in, frames out, nothing about actors.

A *plane* makes servers and clients. A server accepts links, a client dials them. A *link* is one ordered,
multiplexed connection between two nodes: requests travel from the side that dialled, answers come back on
the same link. The runtime above is told of everything by calls on one ``LinkHandler``, on the event loop:

    dialled   connect() returns a link ............ link_received*, link_writable*, then link_down once
    accepted  link_up .............................. link_received*, link_writable*, then link_down once

``link_down`` comes exactly once for every link that was up, whoever ended it, and nothing comes after it.
What the accepting side sends at once may arrive before the task that called connect() runs again; if the link
even goes down before that, connect() raises.
A message is a sequence of buffers: the first is the batch of envelopes, the others are large values that
travel beside it. A plane keeps messages whole and in order on one link, or takes the link down. What was sent before a
close arrives, if the peer takes it within the linger limit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import orjson

from .errors import TransportError
from .settings import NetworkSettings

Buffer = bytes | bytearray | memoryview
Frames = Sequence[Buffer]

RESERVED_BYTE = 0xC1
"""First byte of a plane's own frames (hello, reject). MessagePack never uses it, so no batch begins with it."""

PROTOCOL_VERSION = (1, 0)
"""Major and minor version of handshake and envelope. Another major is refused, another minor is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a plane can do, as data, so that upper layers ask instead of testing types."""

    scheme: str
    summary: str
    between_processes: bool
    between_hosts: bool
    notices_death: bool
    """The plane itself notices a dead peer; without it the supervisor's push is all there is."""
    endpoints: bool = False
    """Each actor has an address of its own: its servers are `EndpointServer`, its links have a `LaneLink.lane`."""
    durable: bool = False
    """It can store messages: it is a `callboard.transports.durable.DurablePlane`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a node says of itself in the handshake.

    ``node`` is unique per process incarnation and never reused; ``name`` is for people (``engine.0``).
    ``address`` is where the node itself listens, or empty. A plane adds to the ``features`` what it can do by itself.
    """

    node: str
    name: str
    namespace: str
    incarnation: int = 1
    pid: int = 0
    host: str = ""
    address: str = ""
    max_message_bytes: int = 0
    features: tuple[str, ...] = ()


class Link(Protocol):
    """One side of a connection between two nodes."""

    @property
    def peer(self) -> Identity:
        """What the other side said of itself."""

    @property
    def address(self) -> str:
        """The address that was dialled, or the address of the peer on an accepted link."""

    @property
    def full(self) -> bool:
        """True while the bounded queue of this link is full: do not send, wait for ``link_writable``."""

    def send(self, frames: Frames) -> None:
        """Queue one message of at least one frame; never blocks.

        Buffers must be contiguous. They may change as soon as this returns: what is kept of one that could is a copy.
        Raises `Closed` or `Broken` if the
        link is down, `TooLarge` above the limit of either side, `LinkFull` while ``full``, and ValueError for what
        is no message. In each case nothing was sent.
        """

    def close(self) -> None:
        """Flush what is queued (within the linger limit) and end the link; idempotent."""

    def undelivered(self) -> Sequence[Frames]:
        """Of a link that is down: the messages given to `send` that certainly reached nobody, as far as it knows."""


@runtime_checkable
class LaneLink(Link, Protocol):
    """A link of a plane with `Capabilities.endpoints`."""

    def lane(self, component: str, index: int | None) -> Link:
        """Return what sends over this link to one actor of the peer, by the actor's own address.

        Messages of one lane stay in order; those of different lanes take turns.
        """


class LinkHandler(Protocol):
    """What the runtime gives to a plane. Every call comes on the event loop and must not block or raise."""

    def link_up(self, link: Link) -> None:
        """A peer dialled us and its handshake is done."""

    def link_received(self, link: Link, frames: Sequence[bytes | memoryview]) -> None:
        """One whole message arrived. ``frames[0]`` is bytes; further frames may be read-only views."""

    def link_writable(self, link: Link) -> None:
        """A link that was full has room again."""

    def link_down(self, link: Link, error: TransportError) -> None:
        """The link is gone; ``error`` is `Closed` if we ended it, `Broken` if the world did."""

    def link_idle(self, link: Link) -> bool:
        """True if nothing is outstanding on the link, so that the pool may close it."""


@dataclass(slots=True)
class PlaneStatistics:
    """Counters of one server or client since its start; plain ints, read at any time."""

    links: int = 0
    links_opened: int = 0
    links_closed: int = 0
    links_broken: int = 0
    handshakes_refused: int = 0
    garbage_connections: int = 0
    """Connections dropped because they did not speak the protocol."""
    stray_messages: int = 0
    """Messages dropped because they came before a handshake or after its link had gone."""
    oversized: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    stalls: int = 0
    """How often a link was full."""
    extra: dict[str, int] = field(default_factory=dict)


@runtime_checkable
class RequestPlaneServer(Protocol):
    """Accepts links at one address."""

    @property
    def address(self) -> str:
        """The address to give to others; empty before `start`."""

    async def start(self) -> None:
        """Bind. Raises `AddressInUse`, `BadAddress`, `ConfigError`."""

    def statistics(self) -> PlaneStatistics:
        """Counters since the start."""

    async def close(self) -> None:
        """End every accepted link and unbind; idempotent; leaves no socket, file or thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an actor answers to a stranger. ``code`` is 200, or says as in HTTP what is wrong."""

    body: bytes
    code: int = 200
    error: str = ""
    """One line, empty if all is well."""

    @classmethod
    def failure(cls, code: int, kind: str, message: str, executed: str = "never") -> Answer:
        """Return what tells a stranger what went wrong, and whether a handler ran (never, maybe, yes)."""
        facts = {"type": kind, "message": message, "executed": executed}
        body = orjson.dumps({"error": facts})
        return cls(body=body, code=code, error=" ".join(f"{kind}: {message}".split()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An actor, as a plane shows it to those who speak its native protocol and not ours."""

    name: str
    component: str
    index: int | None
    """Number of the instance within the component, None if the name has none."""
    incarnation: int
    actor_class: str
    """``module:name``, for people."""
    summary: str
    """What it is, in one line, for people."""
    methods: Mapping[str, str]
    """Name and signature of each method, for people."""
    statistics: Callable[[], Mapping[str, Any]]
    """Counters, as plain data."""
    waiting: Callable[[], int]
    """How many messages wait for it or run, whoever sent them."""
    ask: Callable[[bytes], Awaitable[Answer]]
    """Takes a request in JSON: delivers it at the call, so that the order stays; what is returned gives the answer."""
    tell: Callable[[bytes], Answer]
    """Delivers a request in JSON that nobody waits for; says whether it was taken, and has logged it if not."""


@runtime_checkable
class EndpointServer(RequestPlaneServer, Protocol):
    """A server of a plane with `Capabilities.endpoints`."""

    async def expose(self, endpoint: Endpoint) -> None:
        """Give an actor its address; returns when it can be reached there. Raises `TransportError`."""

    async def withdraw(self, name: str, grace_s: float = 0.0) -> None:
        """Take the address back; nothing happens if there is none.

        Returns when what had come there was delivered, and what strangers had asked was answered or ``grace_s`` seconds
        are over. The actor takes mail until then.
        """


@runtime_checkable
class RequestPlaneClient(Protocol):
    """Dials links; keeps at most one link per address."""

    async def connect(self, address: str, *, node: str | None = None) -> Link:
        """Return the link to ``address``, dialling if there is none; concurrent calls share one attempt.

        The link is up when this returns: one that broke at once is a `NoRoute`, because its ``link_down`` came
        before anybody could have heard of it.
        ``node`` is the identity that is expected there: another node at the same address (a successor
        on a reused port) is refused. Raises `NoRoute`, `ConnectTimeout`, `HandshakeRefused`,
        `BadAddress`, `UnknownScheme`, `Closed`.
        """

    def statistics(self) -> PlaneStatistics:
        """Counters since the start."""

    async def close(self) -> None:
        """End every dialled link; idempotent; leaves no socket or thread."""


class Plane(Protocol):
    """What a scheme stands for: a maker of servers and clients. Registered by class, built with no arguments."""

    @property
    def capabilities(self) -> Capabilities:
        """What this plane can do."""

    def server(
        self, identity: Identity, handler: LinkHandler, settings: NetworkSettings
    ) -> RequestPlaneServer:
        """Build a server; binds nothing yet."""

    def client(
        self, identity: Identity, handler: LinkHandler, settings: NetworkSettings
    ) -> RequestPlaneClient:
        """Build a client; dials nothing yet."""


Environment = Mapping[str, str]
