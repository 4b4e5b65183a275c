"""What dialled and accepted links share: limits, the bounded queue, and the one report of their end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, Protocol

import zmq

from . import cutting
from .base import Buffer, Frames, Identity, LinkHandler, PlaneStatistics
from .cutting import CUT_BYTES, PIECE, Assembly, Nonsense, TooMuch, pieces
from .errors import Broken, Closed, LinkFull, TooLarge, TransportError
from .handshake import encode_goodbye, is_own_frame
from .settings import NetworkSettings
from .shared_memory import is_shared, sharing
from .stable import stable, total_bytes

LIMIT_SETTING = "network.max_message_bytes (DYN_TCP_MAX_MESSAGE_SIZE)"


class Carrier(Protocol):
    """The socket side of a link."""

    def transmit(self, link: ZmqLink, frames: Frames) -> None:
        """Give one message to zmq; raises `zmq.Again` with nothing sent."""

    def stalled(self, link: ZmqLink) -> None:
        """The link is full; call its ``resume`` when there may be room."""

    def ended(self, link: ZmqLink, *, flush: bool) -> None:
        """The link is down: forget it, after what it holds was sent, or has lingered too long, if ``flush``."""


class ZmqLink:
    """A link over a zmq socket. zmq never drops: what it does not take waits here, one message at most."""

    __slots__ = (
        "_assembly", "_carrier", "_cuts", "_error", "_handler", "_most_bytes", "_statistics", "_unsent", "_waiting",
        "address", "fd", "full", "key", "limit_bytes", "peer", "shared", "stalled_s", "taken", "taken_bytes",
    )  # fmt: skip

    def __init__(
        self,
        carrier: Carrier,
        handler: LinkHandler,
        statistics: PlaneStatistics,
        *,
        peer: Identity,
        address: str,
        settings: NetworkSettings,
        key: bytes = b"",
        fd: int = -1,
    ) -> None:
        self._carrier = carrier
        self._handler = handler
        self._statistics = statistics
        self._waiting: deque[Frames] = deque()
        self._unsent: tuple[Frames, ...] = ()
        self._error: TransportError | None = None
        self.peer = peer
        self.address = address
        limit_bytes = self._most_bytes = settings.max_message_bytes
        self._cuts = cutting.FEATURE in peer.features
        self._assembly: Assembly | None = None
        """The message of which pieces have come."""
        self.limit_bytes = min(limit_bytes, peer.max_message_bytes or limit_bytes)
        self.shared = sharing(peer, settings, limit_bytes, statistics, self._send_own)
        self.key = key
        """Name of the peer at a ROUTER, and the descriptor of its connection."""
        self.fd = fd
        self.full = False
        self.taken = self.taken_bytes = 0
        """Messages as libzmq counts them, and what they were on the wire; `Unfinished` compares."""
        self.stalled_s = 0.0
        """Since when zmq has taken nothing, of a link that is full."""
        statistics.links += 1
        statistics.links_opened += 1

    def __repr__(self) -> str:
        state = f"down: {self._error}" if self._error else "full" if self.full else "up"
        return f"<Link to {self.peer.name} at {self.address}, {state}>"

    @property
    def is_up(self) -> bool:
        """False from the moment that its end was decided."""
        return self._error is None

    def send(self, frames: Frames) -> None:
        """See `Link.send`."""
        if self._error is not None:
            raise type(self._error)(self.address, getattr(self._error, "why", str(self._error)))
        size = 0
        for frame in frames:
            size += len(frame) if type(frame) is bytes else _extent(frame)
        if not 0 < size <= self.limit_bytes:
            self._judge(size, frames)
        if self.full:
            raise LinkFull(self.address, len(self._waiting))
        statistics = self._statistics
        statistics.messages_sent += 1
        statistics.bytes_sent += size
        if len(frames) > 1 and self.shared is not None:
            frames = self.shared.export(frames)
        if size >= CUT_BYTES and self._cuts and len(frames) > 1 and total_bytes(frames) >= CUT_BYTES:
            self._send_cut(frames)
            return
        try:
            self._carrier.transmit(self, frames)
        except zmq.Again:
            self._stall(frames)
        except zmq.ZMQError as error:
            self.fail(f"zmq: {error}")
            raise Broken(self.address, str(error)) from None

    def _send_cut(self, frames: Frames) -> None:
        """Send a message in pieces; once one of them has to wait, so do those after it."""
        for piece in pieces(stable(frames)):
            if self._waiting:
                self._waiting.append(piece)
                continue
            try:
                self._carrier.transmit(self, piece)
            except zmq.Again:
                self._stall(piece)
            except zmq.ZMQError as error:
                self.fail(f"zmq: {error}")
                raise Broken(self.address, str(error)) from None

    def _stall(self, frames: Frames) -> None:
        """Keep what zmq does not take."""
        self._waiting.append(stable(frames))
        if not self.full:
            self.full = True
            self.stalled_s = monotonic()
            self._statistics.stalls += 1
        self._carrier.stalled(self)

    def _send_own(self, frames: Frames) -> None:
        """Send a word of the plane itself, behind what waits."""
        if self._error is not None:
            return
        if self._waiting:
            self._waiting.append(frames)
            return
        try:
            self._carrier.transmit(self, frames)
        except zmq.Again:
            self._stall(frames)
        except zmq.ZMQError as error:
            self.fail(f"zmq: {error}")

    def _judge(self, size: int, frames: Frames) -> None:
        if size > self.limit_bytes:
            raise TooLarge(size, self.limit_bytes, LIMIT_SETTING)
        if not frames:
            raise ValueError("a message has at least one frame")

    def resume(self) -> bool:
        """Try again to send what waits; True if nothing does any more, or never will be sent."""
        while self._waiting:
            try:
                self._carrier.transmit(self, self._waiting[0])
            except zmq.Again:
                self.full = True
                self._carrier.stalled(self)
                return False
            except zmq.ZMQError as error:
                self._waiting.clear()
                self.fail(f"zmq: {error}")
                return True
            self._waiting.popleft()
            self.stalled_s = monotonic()
        if self.full and self._error is None:
            self.full = False
            self._handler.link_writable(self)
        return True

    def fail_if_stalled(self, limit_s: float) -> float:
        """Break the link if the peer takes nothing for ``limit_s``; returns the time until then, 0 if it is not full.

        libzmq sends no probe while its output is blocked, so it does not notice a peer that is gone then.
        """
        if not self.full or self._error is not None:
            return 0.0
        left_s = self.stalled_s + limit_s - monotonic()
        if left_s <= 0:
            self.fail(f"the peer takes nothing for {limit_s:g} s")
        return max(0.0, left_s)

    def received(self, frames: list[Any], size: int) -> None:
        """Give one message up."""
        if self._assembly is not None:
            self.reject("sent a message between the pieces of another")
            return
        self._statistics.messages_received += 1
        self._statistics.bytes_received += size
        self._handler.link_received(self, frames)

    def received_own(self, frames: list[Any]) -> bool:
        """Take a message with a word of the plane itself in front; False if it is none for a link that is up."""
        try:
            if frames[0][:2] == PIECE:
                together = self._put_together(frames)
                if together is None:
                    return True
                frames = together
            elif self._assembly is not None:
                raise Nonsense("sent a message between the pieces of another")
            if is_shared(frames[0]):
                if self.shared is None:
                    raise Nonsense("sends by shared memory, which was not agreed upon")
                whole = self.shared.take(frames)
            elif is_own_frame(frames[0]):
                return False
            else:
                whole = frames
        except Nonsense as error:
            self._statistics.oversized += isinstance(error, TooMuch)
            self.reject(str(error))
            return True
        if whole is not None and self._error is None:  # its answer may have ended the link
            self.received(whole, sum(map(len, whole)))
        return True

    def _put_together(self, frames: list[Any]) -> list[Any] | None:
        assembly = self._assembly or Assembly(self._most_bytes)
        whole = assembly.add(frames)
        self._assembly = assembly if whole is None else None
        return whole

    def close(self) -> None:
        """See `Link.close`."""
        self._end(Closed(self.address, "this side closed the link"), "the peer closed the link")

    def undelivered(self) -> Sequence[Frames]:
        """See `Link.undelivered`: what zmq has not taken."""
        return self._unsent

    def fail(self, why: str) -> None:
        """The world ended the link."""
        self._end(Broken(self.address, why))

    def reject(self, why: str) -> None:
        """The peer broke the protocol: end the link and tell it why."""
        self._end(Broken(self.address, f"the peer {why}"), f"the peer says that this side {why}")

    def _end(self, error: TransportError, goodbye: str = "") -> None:
        if self._error is not None:
            return
        self._error = error
        if not isinstance(error, Closed):
            self._unsent = tuple(self._given())
            self._waiting.clear()
        self._assembly = None
        if self.shared is not None:
            self.shared.close()
        if goodbye:
            self._waiting.append((encode_goodbye(goodbye),))
        self._statistics.links -= 1
        if isinstance(error, Closed):
            self._statistics.links_closed += 1
        else:
            self._statistics.links_broken += 1
        self._carrier.ended(self, flush=bool(goodbye))
        self._handler.link_down(self, error)

    def _given(self) -> Iterator[Frames]:
        """What waits, as it was given to us, without words of the plane itself."""
        for frames in cutting.whole_messages(self._waiting):
            whole = frames if self.shared is None else self.shared.restore(frames)
            if type(whole[0]) is not bytes or not is_own_frame(whole[0]):
                yield whole


def _extent(frame: Buffer) -> int:
    """What zmq would refuse must be refused before the first frame is out: half a message spoils the socket."""
    view = memoryview(frame)
    if not view.c_contiguous:
        raise ValueError("a frame is not contiguous in memory; send bytes(frame)")
    return view.nbytes
