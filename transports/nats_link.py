"""One link between two nodes over NATS.

NATS delivers what one connection publishes in order, or drops it: where the subject has no listener, when a reader is
too slow for the server, when a connection is lost. So each piece has a number, and what is missing ends the link. The
sender keeps what the peer has not acknowledged, within a window of bytes that no reader is too slow for.

A message for an actor is published on the actor's own subject, its *lane*. If the server says that nobody
listens there (the actor has just stopped), the pieces go once more to the subject of the node, with the same
numbers: the node says what has become of the actor. If nobody listens at the node either, the process is gone, and what
came back reached nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from . import cutting
from . import nats_frames as wire
from .base import Frames, Identity, LinkHandler, PlaneStatistics
from .errors import Broken, Closed, LinkFull, TooLarge, TransportError
from .handshake import decode_reason, encode_goodbye, is_own_frame
from .nats_intake import LOST, Intake, TooMuch
from .nats_outflow import PIECE_COST_BYTES, WINDOW_BYTES, Lane, Outflow, Piece
from .nats_subjects import Subjects
from .settings import NetworkSettings
from .shared_memory import is_shared, sharing
from .stable import stable

LIMIT_SETTING = "network.max_message_bytes (DYN_TCP_MAX_MESSAGE_SIZE)"

TO_ACTOR, TO_NODE = "a", "n"
"""Last token of the subject for answers: where a piece had been sent when the server says that nobody listens."""


class Wire(Protocol):
    """The connection to NATS, as a link needs it."""

    @property
    def subjects(self) -> Subjects:
        """The subjects of our namespace."""

    @property
    def has_room(self) -> bool:
        """False while too much waits for the socket."""

    @property
    def most_bytes(self) -> int:
        """What one NATS message may hold."""

    def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Send one message; never blocks. Raises `Broken` while there is no connection."""

    def stalled(self, link: NatsLink) -> None:
        """The link waits for room; call its ``pump`` when there is some."""


class NatsLink:
    """See `callboard.transports.base.Link`; its lanes are an addition of this plane."""

    def __init__(
        self,
        connection: Wire,
        handler: LinkHandler,
        statistics: PlaneStatistics,
        *,
        key: int,
        peer: Identity,
        address: str,
        subject: str,
        replies: str,
        settings: NetworkSettings,
        forget: Callable[[NatsLink], None],
    ) -> None:
        self._connection = connection
        self._handler = handler
        self._statistics = statistics
        self._forget = forget
        self.key = key
        self.peer = peer
        self.address = address
        self.heard_s = monotonic()
        limit_bytes = settings.max_message_bytes
        self._limit_bytes = min(limit_bytes, peer.max_message_bytes or limit_bytes)
        self._buffer = settings.channel_buffer
        self._shared = sharing(peer, settings, limit_bytes, statistics, self._send_own)
        self._node = wire.node_hash(peer.node)
        self._replies = f"{replies}.{key:x}"
        """Subject on which the server says that nobody listens, without the tokens that say to what."""
        self._subject = subject
        self._out = Outflow(self, subject)
        self._undelivered: list[Frames] = []
        self._intake = Intake(limit_bytes, WINDOW_BYTES)
        self._farewell: tuple[dict[int, int], str] | None = None
        self._left_s = 0.0
        self._goodbye = ""
        self._error: TransportError | None = None
        self._quiet = False
        self.full = False
        statistics.links += 1
        statistics.links_opened += 1

    def __repr__(self) -> str:
        state = f"down: {self._error}" if self._error else "full" if self.full else "up"
        return f"<Link to {self.peer.name} at {self.address}, {state}>"

    @property
    def is_up(self) -> bool:
        """False from the moment that its end was decided."""
        return self._error is None

    @property
    def is_leaving(self) -> bool:
        """True when the peer has said goodbye, and what it had sent before is still on its way."""
        return self._farewell is not None

    @property
    def is_done(self) -> bool:
        """True when it is down and has nothing more to send."""
        return self._error is not None and not self._out.count

    def lane(self, component: str, index: int | None) -> Lane:
        """See `LaneLink.lane`."""
        return self._out.lane(self._connection.subjects.instance(component, index))

    # -- out

    def send(self, frames: Frames) -> None:
        """See `Link.send`."""
        self.send_on(self._out.main, frames)

    def send_on(self, lane: Lane, frames: Frames) -> None:
        """Do what `Link.send` does, on a lane."""
        if self._error is not None:
            raise type(self._error)(self.address, getattr(self._error, "why", str(self._error)))
        size = 0
        for frame in frames:
            size += len(frame) if type(frame) is bytes else _extent(frame)
        if size > self._limit_bytes:
            raise TooLarge(size, self._limit_bytes, LIMIT_SETTING)
        if not 0 < len(frames) <= wire.MOST_FRAMES:
            raise ValueError(f"a message has 1 to {wire.MOST_FRAMES:,} frames, not {len(frames)}")
        if self.full:
            raise LinkFull(self.address, self._out.count)
        self._statistics.messages_sent += 1
        self._statistics.bytes_sent += size
        if len(frames) > 1:
            if self._shared is not None:
                frames = self._shared.export(frames)
            frames = stable(frames)
        self._out.add(lane, frames, self._connection.most_bytes)
        self.pump()
        if self._out.count >= self._buffer and self._error is None and not self.full:
            self.full = True
            self._statistics.stalls += 1

    def _send_own(self, frames: Frames) -> None:
        """Send a word of the plane itself, behind what waits."""
        if self._error is None:
            self._out.add(self._out.main, frames, self._connection.most_bytes)
            self.pump()

    def pump(self) -> None:
        """Send what waits, as far as window and socket allow."""
        out = self._out
        while out.count:
            if not self._connection.has_room:
                self._connection.stalled(self)
                break
            found = out.next()
            if found is None:
                break
            lane, piece = found
            if not self._transmit(lane, piece):
                return
        if self._error is not None:
            if not out.count:
                self._say_goodbye()
                self._forget(self)
        elif self.full and out.count < self._buffer:
            self.full = False
            self._handler.link_writable(self)

    def _transmit(self, lane: Lane, piece: Piece) -> bool:
        """Send one piece; False if the link ended over it, and the piece has not left."""
        head = wire.pack(wire.DATA, piece.flags, lane.number, self._node, self.key, piece.number)
        route, subject = (TO_ACTOR, lane.subject) if lane.by_actor else (TO_NODE, self._subject)
        reply = f"{self._replies}.{lane.number}.{piece.number}.{route}"
        self._quiet = False
        try:
            self._connection.publish(subject, head + piece.body, reply)
        except TransportError as error:
            if lane.certain:
                self._undelivered.append(piece.message)
            self.fail(getattr(error, "why", str(error)))
            return False
        return True

    def _control(self, kind: int, body: bytes) -> None:
        head = wire.pack(kind, 0, 0, self._node, self.key, 0)
        self._quiet = False
        try:
            self._connection.publish(
                self._subject, head + body, f"{self._replies}.0.{self._out.main.sent}.{TO_NODE}"
            )
        except TransportError as error:
            self.fail(getattr(error, "why", str(error)))

    def nobody_listens(self, number: int, piece: int, route: str) -> None:
        """The server says so of one piece of a lane."""
        if number >= len(self._out.lanes):
            return
        lane = self._out.lanes[number]
        if route == TO_NODE:
            if lane.certain:
                self._undelivered += [kept.message for kept in lane.kept if kept.number >= piece]
            self.fail("the peer is gone")
        elif lane.by_actor:
            self._send_to_node(lane, piece, certain=True)

    def denied(self, subject: str) -> None:
        """We may not publish on a subject, given in lower case: the node's own is the other way to an actor."""
        if self._subject.lower() == subject:
            self.fail(f"the NATS server does not allow this process to publish on {self._subject}")
            return
        for lane in self._out.lanes:
            if lane.by_actor and lane.subject.lower() == subject and self._error is None:
                self._send_to_node(lane, 0, certain=False)

    def _send_to_node(self, lane: Lane, number: int, *, certain: bool) -> None:
        for piece in self._out.to_node(lane, number, certain=certain):
            if not self._transmit(lane, piece):
                return

    def undelivered(self) -> Sequence[Frames]:
        """See `Link.undelivered`."""
        return self._given() if self._error is None else list(self._undelivered)

    def _given(self) -> list[Frames]:
        """The messages that reached nobody, each once, as they were given to us, without words of the plane itself."""
        messages = {id(frames): frames for frames in self._undelivered}.values()
        whole = [self._shared.restore(frames) if self._shared else frames for frames in messages]
        return [frames for frames in whole if type(frames[0]) is not bytes or not is_own_frame(frames[0])]

    # -- in

    def received(self, header: wire.Header, data: bytes) -> None:
        """Take one piece of whatever kind."""
        self.heard_s = monotonic()
        if self._error is not None:
            if header.kind == wire.ACK:
                self._acknowledged(data)
            else:
                self._statistics.stray_messages += 1
        elif header.kind == wire.DATA:
            self._take(header, data)
        elif header.kind == wire.ACK:
            self._acknowledged(data)
        elif header.kind == wire.GOODBYE:
            self._take_leave(data)

    def _take(self, header: wire.Header, data: bytes) -> None:
        intake = self._intake
        try:
            messages = intake.take(header, data, PIECE_COST_BYTES)
        except wire.Nonsense as error:
            self._statistics.oversized += isinstance(error, TooMuch)
            self.reject(str(error))
            return
        for frames in messages:
            if self._error is None:
                self._deliver(frames)
        if intake.owed_bytes >= WINDOW_BYTES // 4:
            self.acknowledge()
        if self._farewell is not None:
            self._leave_if_complete()

    def _deliver(self, frames: list[bytes | memoryview]) -> None:
        if len(frames) > 1 and is_shared(frames[0]):
            whole = self._shared_frames(frames)
            if whole is None:
                return
            frames = whole
        self._statistics.messages_received += 1
        self._statistics.bytes_received += sum(map(len, frames))
        self._handler.link_received(self, frames)

    def _shared_frames(self, frames: list[bytes | memoryview]) -> list[bytes | memoryview] | None:
        """What a message with a word about shared memory in front says to the layer above, if anything."""
        if self._shared is None:
            self.reject("sends by shared memory, which was not agreed upon")
            return None
        try:
            return self._shared.take(frames)
        except cutting.Nonsense as error:
            self._statistics.oversized += isinstance(error, cutting.TooMuch)
            self.reject(str(error))
            return None

    def acknowledge(self) -> None:
        """Tell the peer what has been taken, so that it may forget it."""
        if self._intake.owed_bytes and self._error is None:
            for marks in wire.pack_marks(self._intake.settle(), self._connection.most_bytes):
                self._control(wire.ACK, marks)

    def _acknowledged(self, data: bytes) -> None:
        try:
            marks, _ = wire.unpack_marks(memoryview(data)[wire.HEADER_BYTES :])
        except wire.Nonsense as error:
            self.reject(str(error))
            return
        self._out.acknowledged(marks)
        if self._out.count:
            self.pump()

    def _take_leave(self, data: bytes) -> None:
        try:
            marks, rest = wire.unpack_marks(memoryview(data)[wire.HEADER_BYTES :])
        except wire.Nonsense as error:
            self.reject(str(error))
            return
        if self._farewell is None:
            self._farewell = (marks, decode_reason(rest))
            self._left_s = monotonic()
            self._leave_if_complete()

    def _leave_if_complete(self) -> None:
        """What was sent on other subjects before the goodbye may be read after it."""
        if self._farewell is not None and self._error is None:
            marks, why = self._farewell
            if self._intake.has_all(marks):
                self.fail(why)

    # -- life

    def look(self, limit_s: float, step_s: float) -> None:
        """End a link without a sign of life for ``limit_s``, or on which something is missing for so long.

        The next look is in ``step_s``, and would be too late.
        """
        if self._error is not None:
            return
        now, silence_s = monotonic(), limit_s - step_s
        if self._farewell is not None and now - self._left_s > silence_s:
            self.fail(self._farewell[1])
        elif now - self.heard_s > silence_s:
            self.fail(f"no sign of life for {limit_s:g} s")
        elif self._intake.has_gap_of(silence_s, now):
            self.reject(LOST)

    def forgive(self) -> None:
        """This process stood still: signs of life, and what is missing, may be among what has not been read."""
        self.heard_s = monotonic()
        self._intake.forgive()

    def tick(self) -> None:
        """Called each heartbeat: give a sign of life, and send again what an actor's subject has swallowed."""
        if self._error is not None:
            return
        self.acknowledge()
        for lane in self._out.lanes:
            if lane.by_actor and lane.is_stuck():
                self._send_to_node(lane, 0, certain=False)
        if self._quiet and self._error is None:
            self._control(wire.PROBE, b"")
        self._quiet = True

    def close(self) -> None:
        """See `Link.close`."""
        self._end(Closed(self.address, "this side closed the link"), "the peer closed the link")

    def fail(self, why: str) -> None:
        """The world ended the link."""
        self._end(Broken(self.address, why))

    def reject(self, why: str) -> None:
        """The peer broke the protocol, or what it sent was lost: end the link and tell it why."""
        self._end(Broken(self.address, f"the peer {why}"), f"the peer says that this side {why}")

    def give_up(self) -> None:
        """The time to send what waits after a close is over."""
        self._out.clear()
        self._say_goodbye()
        self._forget(self)

    def _end(self, error: TransportError, goodbye: str = "") -> None:
        if self._error is not None:
            if not goodbye and self._out.count:  # the world ends what we were still emptying
                self._out.clear()
                self._goodbye = ""
                self._forget(self)
            return
        self._error = error
        self._goodbye = goodbye
        self._statistics.links -= 1
        if isinstance(error, Closed):
            self._statistics.links_closed += 1
        else:
            self._statistics.links_broken += 1
            self._undelivered += self._out.clear()
        self._undelivered = self._given()
        if self._shared is not None:
            self._shared.close()
        if not self._out.count:
            self._say_goodbye()
        self._forget(self)
        self._handler.link_down(self, error)

    def _say_goodbye(self) -> None:
        goodbye, self._goodbye = self._goodbye, ""
        if goodbye:
            farewell = encode_goodbye(goodbye)
            most = wire.marks_in(self._connection.most_bytes - len(farewell))
            marks = wire.pack_marks(self._out.open_marks(most), self._connection.most_bytes)[0]
            self._control(wire.GOODBYE, marks + farewell)


def _extent(frame: bytes | bytearray | memoryview) -> int:
    """What cannot be joined must be refused before a piece is out."""
    view = memoryview(frame)
    if not view.c_contiguous:
        raise ValueError("a frame is not contiguous in memory; send bytes(frame)")
    return view.nbytes
