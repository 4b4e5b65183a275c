"""Ends connections whose input makes no message: libzmq keeps the frames of one that never ends without any bound.

``ZMQ_MAXMSGSIZE`` bounds a frame and ``ZMQ_RCVHWM`` counts whole messages, so neither helps. What libzmq holds cannot
be asked for. But the kernel says how many bytes a connection has received (``TCP_INFO``), and whoever takes the
messages knows whether one has come. So a few times a second this looks at each connection: what has come since its last
whole message is unfinished. More than a message can have is an attack:

- Bytes are counted from the look at which the last message was known to have come, so never too many. Those that libzmq
  has not read yet do not count.
- Before a connection is judged, everything that is whole is taken. So a sender that was faster than a loop that was
  blocked is not mistaken: one of its messages comes then.
- Pings and pongs make no message. What they need is given to each connection: `PINGS_BYTES` per heartbeat.

libzmq also holds what is whole and not read yet, and must not be given a bound for that (see `zmq_sockets.UNBOUNDED`).
Whose messages come faster than they are taken is found the same way: when `MOST_UNREAD` of them have been taken since
some look, and not yet all that had come until then, so many were waiting. No credit allows that.

A look costs two microseconds for each connection. There is none without a connection, and none for unix sockets, which
do not count: their directory is open to the same user only.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import socket
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

LOOK_S, CLOSE_LOOK_S = 0.25, 0.05
"""Time between two looks; and while some connection has sent more than `SUSPICIOUS_BYTES` without a message."""
SUSPICIOUS_BYTES = 1024 * 1024
ROOM_BYTES = 1024 * 1024
"""Beside the message itself: the headers of its frames, and what libzmq decodes at once."""
PINGS_BYTES = 64
UNKNOWN_BYTES = 64 * 1024
"""Who has no link yet has nothing to say but one handshake."""
MOST_UNREAD = 100_000
"""Messages of one connection that may wait."""
BESIDE_BYTES = 4096
"""Per second: pings and pongs of who has the shortest heartbeat, beside its messages."""

_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128
"""Where Linux (since 4.1) has ``tcpi_bytes_received`` in its ``struct tcp_info``."""
_UNREAD = struct.Struct("=i")


class Talker(Protocol):
    """What takes the messages of one connection."""

    taken: int
    """Messages so far."""
    taken_bytes: int
    """What they were on the wire."""


@dataclass(slots=True, eq=False)
class Account:
    """One connection."""

    fd: int
    most_bytes: int
    drain: Callable[[], object]
    """Takes messages until one of this connection has come, if it has sent a whole one."""
    cut: Callable[[str], None]
    """Ends the connection; the reason reads on after "the peer"."""
    base_bytes: int = 0
    """What it had received when it was last known to owe nothing."""
    talker: Talker | None = None
    spoke: bool = False
    seen: int = 0
    """What the talker had taken at the last look."""
    since_s: float = 0.0
    """When it became a link."""
    mark_bytes: int = 0
    mark_taken: int = 0
    """At some look: what had come, and what had been taken."""

    def has_spoken(self) -> bool:
        """True if a message has come since this was asked last."""
        spoke, self.spoke = self.spoke, False
        if self.talker is not None and self.talker.taken != self.seen:
            self.seen, spoke = self.talker.taken, True
        return spoke

    def is_ahead(self, received: int) -> bool:
        """True if more than `MOST_UNREAD` of its messages were waiting at one time."""
        talker = self.talker
        if talker is None:
            return False
        beside_bytes = UNKNOWN_BYTES + int(BESIDE_BYTES * (monotonic() - self.since_s))
        if talker.taken_bytes + beside_bytes >= self.mark_bytes:
            self.mark_bytes, self.mark_taken = received, talker.taken
            return False
        return talker.taken - self.mark_taken > MOST_UNREAD


class Unfinished:
    """The connections of one server or client, by descriptor."""

    def __init__(self, heartbeat_interval_s: float) -> None:
        self._accounts: dict[int, Account] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pings_bytes = math.ceil(PINGS_BYTES * LOOK_S / heartbeat_interval_s)

    def __repr__(self) -> str:
        return f"<Unfinished {sorted(self._accounts)}>"

    def __len__(self) -> int:
        return len(self._accounts)

    def add(self, fd: int, drain: Callable[[], object], cut: Callable[[str], None]) -> None:
        """Look at this connection from now on, if the system counts what it receives."""
        if received_bytes(fd) is None:
            self._accounts.pop(fd, None)
            return
        self._accounts[fd] = Account(fd, UNKNOWN_BYTES, drain, cut)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def get(self, fd: int) -> Account | None:
        """Return what is known of a connection."""
        return self._accounts.get(fd)

    def linked(self, fd: int, talker: Talker, most_bytes: int) -> None:
        """It has a link now, which may receive messages of ``most_bytes``."""
        account = self._accounts.get(fd)
        if account is not None:
            account.talker, account.most_bytes, account.spoke = talker, most_bytes + ROOM_BYTES, True
            account.since_s = monotonic()

    def spoke(self, fd: int) -> None:
        """A message came that belongs to no link."""
        account = self._accounts.get(fd)
        if account is not None:
            account.spoke = True

    def remove(self, fd: int) -> None:
        """The connection is gone."""
        self._accounts.pop(fd, None)
        if not self._accounts:
            self.close()

    def close(self) -> None:
        """Look at nothing any more."""
        self._accounts.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        wait_s = LOOK_S
        try:
            for account in list(self._accounts.values()):
                unfinished = self._judge(account)
                if unfinished > SUSPICIOUS_BYTES:
                    wait_s = CLOSE_LOOK_S
        finally:
            if self._accounts:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)
            else:
                self._timer = None

    def _judge(self, account: Account) -> int:
        """Return how much is unfinished; ends the connection if that is too much."""
        received = received_bytes(account.fd)
        if received is None:  # closed, as an event will say
            return 0
        if account.is_ahead(received):
            account.cut(f"is {MOST_UNREAD:,} messages ahead of what could be taken")
            return 0
        if account.has_spoken() or received < account.base_bytes:
            account.base_bytes = received
            return 0
        account.base_bytes = min(received, account.base_bytes + self._pings_bytes)
        unfinished = received - account.base_bytes
        if unfinished <= account.most_bytes:
            return unfinished
        unfinished -= unread_bytes(
            account.fd
        )  # before what is whole is taken: what was read until now is known then
        account.drain()
        if unfinished <= account.most_bytes or self._accounts.get(account.fd) is not account:
            return unfinished
        if account.has_spoken():  # perhaps with what came after the count above
            account.base_bytes = received_bytes(account.fd) or received
            return 0
        account.cut(
            f"sent {unfinished:,} bytes that make no message; the limit here is {account.most_bytes - ROOM_BYTES:,}"
            if account.talker is not None
            else f"sent {unfinished:,} bytes and no handshake"
        )
        return 0


def received_bytes(fd: int) -> int | None:
    """Return how many bytes a TCP connection has received since it began; None for everything else."""
    try:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    except (OSError, ValueError):
        return None
    try:
        facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + _RECEIVED.size)
    except (OSError, AttributeError):  # no TCP, or not Linux
        return None
    finally:
        connection.detach()
    return _RECEIVED.unpack_from(facts, _RECEIVED_AT)[0] if len(facts) >= _RECEIVED_AT + 8 else None


def unread_bytes(fd: int) -> int:
    """Return how many of them nobody has read yet."""
    try:
        return int(_UNREAD.unpack(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])
    except OSError:
        return 0
