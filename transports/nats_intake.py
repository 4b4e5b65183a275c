"""What one link takes in: pieces of many lanes in the order of each, put together to messages. Pure."""

from __future__ import annotations

from . import nats_frames as wire

LOST = "lost messages on the way: a reader was too slow for the NATS server, or was cut off"


class TooMuch(wire.Nonsense):
    """A message above the limit."""


class Intake:
    """Expects the pieces of each lane in the order of their numbers, and knows what it owes an acknowledgement."""

    __slots__ = ("_assemblies", "_expected", "_limit_bytes", "_owed", "owed_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._expected: dict[int, int] = {}
        self._assemblies: dict[int, wire.Assembly] = {}
        self._owed: set[int] = set()
        self.owed_bytes = 0
        """Taken and not yet acknowledged."""

    def __repr__(self) -> str:
        return f"<Intake {len(self._expected)} lanes, {self.owed_bytes} bytes owed>"

    def take(self, header: wire.Header, data: bytes, cost_bytes: int) -> list[bytes | memoryview] | None:
        """Take the next piece; returns the frames of a message that is whole with it.

        A piece that came before is left out. Raises `Nonsense` with what the peer did.
        """
        lane = header.lane
        expected = self._expected.get(lane, 0)
        if header.number != expected:
            if header.number > expected:
                raise wire.Nonsense(LOST)
            return None
        self._expected[lane] = expected + 1
        self._owed.add(lane)
        self.owed_bytes += len(data) - wire.HEADER_BYTES + cost_bytes
        if header.flags == wire.WHOLE:
            if len(data) - wire.HEADER_BYTES > self._limit_bytes:
                size = len(data) - wire.HEADER_BYTES
                raise TooMuch(f"sent {size:,} bytes; the limit here is {self._limit_bytes:,}")
            return [data[wire.HEADER_BYTES :]]
        assembly = self._assemblies.get(lane)
        if assembly is None:
            assembly = self._assemblies[lane] = wire.Assembly(self._limit_bytes)
        frames = assembly.add(header.flags, data[wire.HEADER_BYTES :])
        if frames is not None:
            del self._assemblies[lane]
        return frames

    def settle(self) -> dict[int, int]:
        """Return the lanes that are owed an acknowledgement, with the number that each expects next."""
        marks = {lane: self._expected[lane] for lane in self._owed}
        self._owed.clear()
        self.owed_bytes = 0
        return marks

    def has_all(self, marks: dict[int, int]) -> bool:
        """True if everything below ``marks`` has come."""
        return all(self._expected.get(lane, 0) >= number for lane, number in marks.items())
