"""What happened in a soak, on disk: one record per event, which no SIGKILL undoes.

Each incarnation of a process appends to a file of its own. A record is one `write` of a few bytes to a regular file:
the kernel has it whole or not at all, and keeps it when the writer dies. A run is written before the handler does
anything else, a call before it is sent. So whatever ran or was sent is in it.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

_RECORD = struct.Struct("<QQBBxxI")

INNER = 1 << 63
"""Bit in the id of the ask that a handler makes for the message with the rest of the id."""


class Event(IntEnum):
    """What a record is about."""

    RUN = 1
    """A handler begins; ``number`` is its place in the order of its sender, 0 for none."""
    DONE = 2
    """It ended; ``detail`` is an `End`."""
    SENT = 3
    """A call is about to be sent; ``detail`` is a `Verb`."""
    OUTCOME = 4
    """Its caller was told; ``detail`` is an `Outcome`."""


class Verb(IntEnum):
    """How a message was sent."""

    ASK = 1
    TELL = 2
    STREAM = 3
    AGAIN = 4
    """An ask of an idempotent method: it may run several times, and must succeed."""


class End(IntEnum):
    """How a handler ended."""

    RETURNED = 1
    CANCELLED = 2
    RAISED = 3


class Outcome(IntEnum):
    """What a caller was told."""

    VALUE = 1
    NEVER = 2
    MAYBE = 3
    YES = 4
    LEFT = 5
    """Nothing: it left before."""
    WRONG = 6
    """Something that breaks a promise: another value, a gap in a stream, a wrong count, a strange error."""


class Record(NamedTuple):
    """One event."""

    id: int
    time_ns: int
    event: Event
    detail: int
    number: int


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes a file: an incarnation of a process, with its part in the soak."""

    part: str
    """``runs`` of an actor, ``calls`` of a load."""
    name: str
    incarnation: int
    pid: int


class Ledger:
    """Appends records; what it says is on record when a method returns."""

    def __init__(self, directory: str, part: str, name: str, incarnation: int) -> None:
        path = Path(directory, f"{part}-{name}-{incarnation}-{os.getpid()}")
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, event: Event, number_id: int, detail: int = 0, number: int = 0) -> None:
        """Append one record; raises if the kernel took only a part."""
        record = _RECORD.pack(number_id, time.monotonic_ns(), event, detail, number)
        if os.write(self._fd, record) != len(record):
            raise OSError("a record was written in part: is the disk full?")

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._fd)


def read(directory: Path) -> Iterator[tuple[Author, list[Record]]]:
    """Yield every file with its records, in the order written; raises `ValueError` for half a record."""
    for path in sorted(directory.iterdir()):
        part, name, incarnation, pid = path.name.split("-")
        data = path.read_bytes()
        if len(data) % _RECORD.size:
            raise ValueError(f"{path} ends within a record")
        records = [
            Record(number_id, time_ns, Event(event), detail, number)
            for number_id, time_ns, event, detail, number in _RECORD.iter_unpack(data)
        ]
        yield Author(part, name, int(incarnation), int(pid)), records
