"""What one link takes in: pieces of many lanes in the order of each, put together to messages. Pure.

On a lane of an actor a piece can come before the one that it follows: that one found nobody on the actor's subject,
just before the actor was started again, and is on its way to the node. So a gap there may close; one that stays is a
loss.
"""

from __future__ import annotations

from . import nats_frames as wire

LOST = "lost messages on the way: a reader was too slow for the NATS server, or was cut off"

Message = list[bytes | memoryview]


class TooMuch(wire.Nonsense):
    """A message above the limit."""


class _Lane:
    """One lane: what it expects, what came too early, and the message that is not whole yet."""

    __slots__ = ("assembly", "early", "expected")

    def __init__(self, limit_bytes: int) -> None:
        self.expected = 0
        self.early: dict[int, tuple[int, bytes]] = {}
        self.assembly = wire.Assembly(limit_bytes)


class Intake:
    """Expects the pieces of each lane in the order of their numbers, and knows what it owes an acknowledgement."""

    __slots__ = ("_early_bytes", "_gaps", "_lanes", "_limit_bytes", "_owed", "_window_bytes", "owed_bytes")

    def __init__(self, limit_bytes: int, window_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._window_bytes = window_bytes
        self._lanes: dict[int, _Lane] = {}
        self._owed: set[int] = set()
        self._early_bytes = 0
        self._gaps: dict[tuple[int, int], float] = {}
        """What is missing, lanes and the number that each expects, and since when."""
        self.owed_bytes = 0
        """Taken and not yet acknowledged."""

    def __repr__(self) -> str:
        return f"<Intake {len(self._lanes)} lanes, {self.owed_bytes} bytes owed, {self._early_bytes} early>"

    def take(self, header: wire.Header, data: bytes, cost_bytes: int) -> list[Message]:
        """Take a piece; returns the messages that are whole with it.

        A piece that came before is left out. Raises `Nonsense` with what the peer did, and if something is missing.
        """
        lane = self._lanes.get(header.lane)
        if lane is None:
            lane = self._lanes[header.lane] = _Lane(self._limit_bytes)
        number, flags, body = header.number, header.flags, data[wire.HEADER_BYTES :]
        if number != lane.expected:
            if number > lane.expected:
                self._keep(header.lane, lane, number, flags, body)
            return []
        self._owed.add(header.lane)
        whole: list[Message] = []
        while True:
            lane.expected += 1
            self.owed_bytes += len(body) + cost_bytes
            message = self._whole(lane, flags, body)
            if message is not None:
                whole.append(message)
            following = lane.early.pop(lane.expected, None) if lane.early else None
            if following is None:
                return whole
            flags, body = following
            self._early_bytes -= len(body) + 1

    def _whole(self, lane: _Lane, flags: int, body: bytes) -> Message | None:
        if flags != wire.WHOLE:
            return lane.assembly.add(flags, body)
        if len(body) > self._limit_bytes:
            raise TooMuch(f"sent {len(body):,} bytes; the limit here is {self._limit_bytes:,}")
        return [body]

    def _keep(self, name: int, lane: _Lane, number: int, flags: int, body: bytes) -> None:
        self._early_bytes += len(body) + 1
        if name == 0 or self._early_bytes > 2 * self._window_bytes:
            raise wire.Nonsense(LOST)
        if lane.early.setdefault(number, (flags, body))[1] is not body:
            self._early_bytes -= len(body) + 1

    def has_gap_of(self, limit_s: float, now_s: float) -> bool:
        """True if the same piece has been missing for ``limit_s``, as far as anybody has looked."""
        if not self._early_bytes and not self._gaps:
            return False
        open_now = {(name, lane.expected) for name, lane in self._lanes.items() if lane.early}
        self._gaps = {gap: self._gaps.get(gap, now_s) for gap in open_now}
        return any(now_s - since_s > limit_s for since_s in self._gaps.values())

    def forgive(self) -> None:
        """Nobody could look for a while: what is missing may be among what has not been read."""
        self._gaps.clear()

    def settle(self) -> dict[int, int]:
        """Return the lanes that are owed an acknowledgement, with the number that each expects next."""
        marks = {lane: self._lanes[lane].expected for lane in self._owed}
        self._owed.clear()
        self.owed_bytes = 0
        return marks

    def has_all(self, marks: dict[int, int]) -> bool:
        """True if everything below ``marks`` has come."""
        return all(
            number == 0 or (lane in self._lanes and self._lanes[lane].expected >= number)
            for lane, number in marks.items()
        )
