"""The links on one connection to NATS: which piece belongs to which, and which of them still lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Protocol

from nats.aio.msg import Msg

from . import nats_frames as wire
from .base import RESERVED_BYTE, Identity
from .errors import TransportError
from .handshake import encode_goodbye
from .nats_link import NatsLink
from .nats_subjects import Subjects, is_inbox
from .settings import NetworkSettings

LOOKS = 4
"""Per heartbeat: an end is noticed so much earlier than it would be with one."""


class Carrier(Protocol):
    """What the links need of their connection."""

    def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Send one message; never blocks. Raises `Broken` while there is no connection."""

    def hear(self, subject: str, handler: Callable[[Msg], None]) -> None:
        """Begin to listen on a subject."""

    def ignore(self, subject: str) -> None:
        """Listen no more on a subject."""

    def check(self) -> None:
        """Look whether the connection is still there."""


class NatsLinks:
    """Every link by its key, until it has sent what it holds; and the hellos that wait for an answer."""

    def __init__(
        self, carrier: Carrier, identity: Identity, subjects: Subjects, settings: NetworkSettings
    ) -> None:
        self._carrier = carrier
        self._settings = settings
        self._subjects = subjects
        self._mine = wire.node_hash(identity.node)
        self._links: dict[int, NatsLink] = {}
        self._alive: Counter[str] = Counter()
        """How many links there are to each node: their signs of life are listened for."""
        self._timer: asyncio.TimerHandle | None = None
        self._look_due_s = 0.0
        self._looks = 0
        self.inbox = subjects.inbox(identity.node)
        """What the subjects for answers to this node begin with."""
        self.dials: dict[int, Callable[[bytes], None]] = {}
        """Who takes what comes back to a hello, by the key of the link that it asks for; empty if nobody listens."""
        self.strays = 0
        """Messages that belong to no link of ours."""

    def __repr__(self) -> str:
        return f"<NatsLinks {len(self._links)} to {len(self._alive)} nodes>"

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[NatsLink]:
        return iter(list(self._links.values()))

    def knows(self, key: int) -> bool:
        """True if there is a link of this key."""
        return key in self._links

    def add(self, link: NatsLink) -> None:
        """There is one link more."""
        self._links[link.key] = link
        node = link.peer.node
        self._alive[node] += 1
        if self._alive[node] == 1:
            self._carrier.hear(self._subjects.alive(node), lambda _: self._lives(node))

    def remove(self, link: NatsLink) -> None:
        """A link has nothing more to send."""
        if self._links.get(link.key) is not link:
            return
        del self._links[link.key]
        node = link.peer.node
        self._alive[node] -= 1
        if not self._alive[node]:
            del self._alive[node]
            self._carrier.ignore(self._subjects.alive(node))

    def fail(self, why: str) -> None:
        """The world ended all of them."""
        for link in self:
            link.fail(why)

    def denied(self, subject: str) -> None:
        """The server refuses what is published on a subject, given in lower case."""
        for link in self:
            link.denied(subject)

    # -- in

    def answered(self, message: Msg) -> None:
        """Something came to our inbox."""
        tokens = message.subject[len(self.inbox) + 1 :].split(".")
        try:
            key = int(tokens[0], 16)
        except ValueError:
            self.strays += 1
            return
        if message.headers is not None and message.headers.get("Status") == "503":
            self._nobody_listens(key, tokens[1:])
            return
        data = message.data
        if data and data[0] == RESERVED_BYTE:
            dial = self.dials.pop(key, None)
            if dial is not None:
                dial(data)
            else:
                self.strays += 1
        else:
            self.take(message)

    def _nobody_listens(self, key: int, tokens: list[str]) -> None:
        dial = self.dials.pop(key, None)
        if dial is not None:
            dial(b"")
            return
        link = self._links.get(key)
        if link is not None and len(tokens) == 3 and tokens[0].isdecimal() and tokens[1].isdecimal():
            link.nobody_listens(int(tokens[0]), int(tokens[1]), tokens[2])

    def take(self, message: Msg) -> bool:
        """Give a piece to its link; False if it is none."""
        data = message.data
        header = wire.unpack(data)
        if header is None:
            return False
        link = self._links.get(header.link)
        if link is not None:
            link.received(header, data)
            return True
        self.strays += 1
        if header.kind in (wire.DATA, wire.PROBE) and header.node == self._mine:
            self._no_such_link(header, message.reply)
        return True

    def _no_such_link(self, header: wire.Header, reply: str) -> None:
        """The peer believes in a link that is over: say so, or it would wait."""
        subject = ".".join(reply.split(".")[:-3])
        if is_inbox(self._subjects, subject):
            body = wire.pack_marks({})[0] + encode_goodbye("this link is over")
            with contextlib.suppress(TransportError):
                self._carrier.publish(subject, wire.pack(wire.GOODBYE, 0, 0, 0, header.link, 0) + body)

    # -- signs of life

    def _lives(self, node: str) -> None:
        now = monotonic()
        for link in self._links.values():
            if link.peer.node == node:
                link.heard_s = now

    def start(self) -> None:
        """Look after the links, `LOOKS` times per heartbeat, from now on."""
        step_s = self._settings.heartbeat_interval_s / LOOKS
        self._look_due_s = monotonic() + step_s
        self._timer = asyncio.get_running_loop().call_later(step_s, self.look)

    def look(self) -> None:
        """End links without a sign of life; once per heartbeat, give one on each that has been quiet."""
        late_s = monotonic() - self._look_due_s
        limit_s, step_s = self._settings.heartbeat_timeout_s, self._settings.heartbeat_interval_s / LOOKS
        self._looks += 1
        try:
            self._carrier.check()
            for link in self:
                if late_s > self._settings.heartbeat_interval_s:
                    link.forgive()
                link.look(limit_s, step_s)
                if self._looks % LOOKS == 0:
                    link.tick()
        finally:
            self.start()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
