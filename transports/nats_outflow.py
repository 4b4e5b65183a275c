"""What one link has to send: messages wait on lanes, leave in pieces, and are kept until the peer has them. Pure.

Lanes take turns, piece by piece, so a large message to one actor holds up no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from . import nats_frames as wire
from .base import Frames, Identity

WINDOW_BYTES = 4 * 1024 * 1024
"""Sent and not acknowledged on one link: far below the 64 MiB that a NATS server holds for a slow reader."""
PIECE_COST_BYTES = 64
"""What a piece counts beside its body."""
MOST_LANES = 4096
"""Actors of one peer beyond that share the lane of the node."""
PATIENCE = 2
"""Looks, one per heartbeat, at which a lane may have kept the same piece; peers acknowledge once per heartbeat."""


class Sender(Protocol):
    """The link of a lane."""

    peer: Identity
    address: str
    full: bool

    def send_on(self, lane: Lane, frames: Frames) -> None:
        """Do what `Link.send` does, on a lane."""

    def close(self) -> None:
        """See `Link.close`."""

    def undelivered(self) -> Sequence[Frames]:
        """See `Link.undelivered`."""


class Piece(NamedTuple):
    """A part of a message that was sent."""

    number: int
    flags: int
    body: bytes
    message: Frames


class Lane:
    """One actor of the peer (or, as lane 0, the peer itself): sends like a link, on a subject of its own."""

    __slots__ = (
        "_link", "_looks", "_oldest", "by_actor", "certain", "kept", "number", "sent", "subject", "waiting",
    )  # fmt: skip

    def __init__(self, link: Sender, number: int, subject: str, *, by_actor: bool) -> None:
        self._link = link
        self.number = number
        self.subject = subject
        self.by_actor = by_actor
        """True as long as pieces go to the actor's own subject; once they do not, they go to the node for good."""
        self.certain = True
        """False if pieces were sent twice: what the second time reached nobody may have been handled before."""
        self.sent = 0
        self.waiting: deque[tuple[Frames, Iterator[tuple[int, bytes]]]] = deque()
        self.kept: deque[Piece] = deque()
        """What has not been acknowledged."""
        self._oldest, self._looks = -1, 0

    def __repr__(self) -> str:
        return f"<Lane {self.number} to {self.subject}, {self.sent} sent, {len(self.kept)} kept>"

    @property
    def peer(self) -> Identity:
        """See `Link.peer`."""
        return self._link.peer

    @property
    def address(self) -> str:
        """See `Link.address`."""
        return self._link.address

    @property
    def full(self) -> bool:
        """See `Link.full`."""
        return self._link.full

    def send(self, frames: Frames) -> None:
        """See `Link.send`."""
        self._link.send_on(self, frames)

    def close(self) -> None:
        """See `Link.close`."""
        self._link.close()

    def undelivered(self) -> Sequence[Frames]:
        """See `Link.undelivered`."""
        return self._link.undelivered()

    def is_stuck(self) -> bool:
        """True if an actor's lane has kept the same piece for `PATIENCE` looks; this is one."""
        oldest = self.kept[0].number if self.kept and self.by_actor else -1
        self._looks = self._looks + 1 if oldest == self._oldest and oldest >= 0 else 0
        self._oldest = oldest
        return self._looks >= PATIENCE


class Outflow:
    """The lanes of one link."""

    __slots__ = ("_busy", "_by_subject", "_link", "count", "in_flight_bytes", "lanes")

    def __init__(self, link: Sender, subject: str) -> None:
        self._link = link
        self.lanes: list[Lane] = [Lane(link, 0, subject, by_actor=False)]
        self._by_subject: dict[str, Lane] = {}
        self._busy: deque[Lane] = deque()
        """Lanes on which something waits, in the order of their turns."""
        self.count = 0
        """Messages that wait, the one that is partly sent included."""
        self.in_flight_bytes = 0

    def __repr__(self) -> str:
        return f"<Outflow {len(self.lanes)} lanes, {self.count} wait, {self.in_flight_bytes} bytes in flight>"

    @property
    def main(self) -> Lane:
        """The lane of the node."""
        return self.lanes[0]

    def lane(self, subject: str) -> Lane:
        """Return the lane of an actor, by its subject."""
        lane = self._by_subject.get(subject)
        if lane is None:
            if len(self.lanes) == MOST_LANES:
                return self.main
            lane = Lane(self._link, len(self.lanes), subject, by_actor=True)
            self.lanes.append(lane)
            self._by_subject[subject] = lane
        return lane

    def add(self, lane: Lane, frames: Frames, most_bytes: int) -> None:
        """Let a message wait, to be cut into pieces of ``most_bytes``."""
        if not lane.waiting:
            self._busy.append(lane)
        lane.waiting.append((frames, wire.pieces(frames, most_bytes)))
        self.count += 1

    def next(self) -> tuple[Lane, Piece] | None:
        """Return the piece whose turn it is, which is kept from now on; None if nothing waits or the window is full."""
        if not self._busy or self.in_flight_bytes >= WINDOW_BYTES:
            return None
        lane = self._busy.popleft()
        frames, rest = lane.waiting[0]
        flags, body = next(rest)
        if flags & wire.LAST:
            lane.waiting.popleft()
            self.count -= 1
        if lane.waiting:
            self._busy.append(lane)
        piece = Piece(lane.sent, flags, body, frames)
        lane.sent += 1
        lane.kept.append(piece)
        self.in_flight_bytes += len(body) + PIECE_COST_BYTES
        return lane, piece

    def acknowledged(self, marks: dict[int, int]) -> None:
        """The peer has everything below these numbers."""
        for number, taken in marks.items():
            kept = self.lanes[number].kept if number < len(self.lanes) else None
            while kept and kept[0].number < taken:
                self.in_flight_bytes -= len(kept.popleft().body) + PIECE_COST_BYTES

    def to_node(self, lane: Lane, number: int, *, certain: bool) -> list[Piece]:
        """Send no more to the actor's own subject; returns what must be sent again, from a number on."""
        lane.by_actor, lane.certain = False, certain
        return [piece for piece in lane.kept if piece.number >= number]

    def clear(self) -> list[Frames]:
        """Drop what waits; returns its messages, none of which is whole at the peer."""
        left = [frames for lane in self._busy for frames, _ in lane.waiting]
        for lane in self._busy:
            lane.waiting.clear()
        self._busy.clear()
        self.count = 0
        return left

    def open_marks(self, most: int) -> dict[int, int]:
        """Return the number that follows the last one sent, of up to ``most`` lanes that are not acknowledged."""
        marks = {lane.number: lane.sent for lane in self.lanes if lane.kept}
        return dict(list(marks.items())[:most])
