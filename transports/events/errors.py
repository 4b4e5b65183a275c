"""What the event plane raises, besides what any transport may raise."""

from __future__ import annotations

from ..errors import TransportError

LONGEST_WHY = 2048
"""Bytes of a reason that travel."""


PART_LOST = "a part of its answer was lost on the way"


class BadFrame(TransportError, ValueError):
    """What came is no frame of events."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"this is no frame of events: {why}")

    def __reduce__(self) -> tuple[type[BadFrame], tuple[str]]:
        return type(self), (self.why,)


class SourceGone(TransportError):
    """A source does not answer."""

    def __init__(self, source: str, why: str) -> None:
        self.source, self.why = source, why
        super().__init__(f"{source} does not answer: {why}")

    def __reduce__(self) -> tuple[type[SourceGone], tuple[str, str]]:
        return type(self), (self.source, self.why)


class SnapshotFailed(TransportError):
    """A source cannot tell its state: its snapshot function raised, or returned what the event plane does not carry."""

    def __init__(self, topic: str, why: str) -> None:
        self.topic, self.why = topic, why
        super().__init__(
            f"the snapshot of topic {topic} failed: {why}; subscribers that need it ask again until it succeeds"
        )

    def __reduce__(self) -> tuple[type[SnapshotFailed], tuple[str, str]]:
        return type(self), (self.topic, self.why)


class ServerTakesTooLittle(TransportError):
    """The ``max_payload`` of a NATS server leaves no room for events, not even in pieces."""

    def __init__(self, server: str, limit_bytes: int, needed_bytes: int) -> None:
        self.server, self.limit_bytes, self.needed_bytes = server, limit_bytes, needed_bytes
        super().__init__(
            f"the NATS server {server} takes {limit_bytes:,} bytes at a time (max_payload), and the event plane needs"
            f" {needed_bytes:,}: raise max_payload in the configuration of the server, or set event_plane to zmq"
        )

    def __reduce__(self) -> tuple[type[ServerTakesTooLittle], tuple[str, int, int]]:
        return type(self), (self.server, self.limit_bytes, self.needed_bytes)


class EventTooLarge(TransportError, ValueError):
    """An event is larger than the event plane carries."""

    def __init__(self, topic: str, size_bytes: int, limit_bytes: int) -> None:
        self.topic, self.size_bytes, self.limit_bytes = topic, size_bytes, limit_bytes
        super().__init__(
            f"an event of topic {topic} has {size_bytes:,} bytes; the event plane carries {limit_bytes:,} at most:"
            " split it into several"
        )

    def __reduce__(self) -> tuple[type[EventTooLarge], tuple[str, int, int]]:
        return type(self), (self.topic, self.size_bytes, self.limit_bytes)
