"""pyzmq as this runtime uses it: plain sockets on the event loop, integer constants, one shared context.

A zmq socket's descriptor is edge-triggered: it signals that EVENTS may have changed, and reading EVENTS or sending
consumes that signal. So EVENTS is read after every wake-up and after every send, until nothing is left.
Only a few messages are taken per turn of the loop; the rest follows in the next turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from .settings import NetworkSettings
from .stable import is_stable

POLLIN, POLLOUT, NOBLOCK, SNDMORE = int(zmq.POLLIN), int(zmq.POLLOUT), int(zmq.NOBLOCK), int(zmq.SNDMORE)
EVENTS, FD, RCVMORE = int(zmq.EVENTS), int(zmq.FD), int(zmq.RCVMORE)
SRCFD = int(getattr(zmq, "SRCFD", 2))
EVENT_ACCEPTED, EVENT_DISCONNECTED = int(zmq.EVENT_ACCEPTED), int(zmq.EVENT_DISCONNECTED)
ZERO_COPY_RECV = 10
"""A context option that pyzmq has no name for."""
EVENT_CONNECTED = int(zmq.EVENT_CONNECTED)
EVENT_HANDSHAKE_SUCCEEDED, EVENT_CLOSED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED), int(zmq.EVENT_CLOSED)
EVENTS_OF_INTEREST = (
    EVENT_ACCEPTED | EVENT_CONNECTED | EVENT_DISCONNECTED | EVENT_HANDSHAKE_SUCCEEDED | EVENT_CLOSED
)
"""Not the failed handshakes: a DISCONNECTED follows each, and their value is an error number, no descriptor."""

MAX_SOCKETS = 60_000
"""A link costs three sockets (its own, and the two ends of its monitor); libzmq's own limit would be 1023."""

UNBOUNDED = 0
"""How many messages of one peer libzmq may hold before they are read.

Where there is a bound and it is reached, libzmq stops reading that connection, and if the peer dies then while
heartbeats are on, it aborts the process (``Assertion failed: !_io_error``, libzmq issue 4364, in 4.3.5 and before).
Whoever sends a megabyte of tiny messages at once reaches a bound of a hundred thousand. So there is none: what an
honest peer sends without being read is bounded above, by the credit of actors and streams, and `Unfinished` ends the
connection of any other.
"""

ZERO_COPY_BYTES = 64 * 1024
PER_TURN = 4
MOST_FRAMES = 65_536
"""Of a message; each costs an object here, and an empty one two bytes on the wire."""
SKIPPED_AT_ONCE = 4096
SHORT_FRAME_BYTES = 256
"""ZMTP puts two bytes before a frame that is shorter, nine before another."""
_EVENT = struct.Struct("=hi")
_numbers = itertools.count()

_lock = threading.Lock()
_context: zmq.Context[Any] | None = None
_users = 0


def acquire_context() -> zmq.Context[Any]:
    """Return the context that all sockets of this process share; give it back with `release_context`."""
    global _context, _users  # noqa: PLW0603
    with _lock:
        if _context is None:
            _context = zmq.Context()
            _context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
            # Without a copy, a frame of 34 bytes keeps the whole buffer of 18 KiB that it was read into.
            _context.set(ZERO_COPY_RECV, 0)
        _users += 1
        return _context


def release_context() -> None:
    """The last user terminates the context; its sockets must be closed already.

    Waits until they have lingered, so call it in a thread. Who acquires a context meanwhile gets a new one.
    """
    global _context, _users  # noqa: PLW0603
    with _lock:
        _users -= 1
        if _users > 0 or _context is None:
            return
        last, _context = _context, None
    last.term()


def start_reclaimer() -> None:
    """Start the thread in which pyzmq frees what it has sent without a copy: one per process, and for good."""
    zmq.Frame(bytes(1), copy=False)


def tune_allocator(shrink_bytes: int) -> None:
    """Let glibc keep freed receive buffers up to ``shrink_bytes`` instead of returning each to the system.

    Page faults on fresh memory halve the throughput of large messages. Does nothing on another libc.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        threshold = max(128 * 1024, min(shrink_bytes, 32 * 1024 * 1024))
        libc.mallopt(-3, threshold)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2 * threshold)  # M_TRIM_THRESHOLD


def configure(socket: zmq.Socket[Any], settings: NetworkSettings) -> None:
    """Set what every socket of the plane has. Must run before bind or connect."""
    socket.setsockopt(zmq.LINGER, int(settings.linger_s * 1000))
    socket.setsockopt(zmq.MAXMSGSIZE, settings.max_message_bytes)
    socket.setsockopt(zmq.SNDHWM, settings.channel_buffer)
    socket.setsockopt(zmq.RCVHWM, UNBOUNDED)
    socket.setsockopt(zmq.HEARTBEAT_IVL, int(settings.heartbeat_interval_s * 1000))
    # libzmq counts from the probe, and a peer may fall silent just after one: together they make the timeout.
    patience_s = settings.heartbeat_timeout_s - settings.heartbeat_interval_s
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(patience_s * 1000))
    # Without a ZAP handler this makes libzmq refuse peers that speak an ancient ZMTP or none at all.
    socket.setsockopt_string(zmq.ZAP_DOMAIN, "callboard")


def send_frames(socket: zmq.Socket[Any], frames: Any, prefix: bytes | None = None) -> None:
    """Send one message; raises `zmq.Again` with nothing sent if the pipe is full.

    Afterwards nothing refers to memory that could change.
    """
    send = socket.send
    last = len(frames) - 1
    if prefix is not None:
        send(prefix, SNDMORE | NOBLOCK)
    for index, frame in enumerate(frames):
        flags = NOBLOCK if index == last else NOBLOCK | SNDMORE
        size = len(frame) if type(frame) is bytes else memoryview(frame).nbytes
        if size < ZERO_COPY_BYTES or not is_stable(frame):
            send(frame, flags)
        else:
            send(frame, flags, copy=False)


def wire_bytes(frames: Sequence[bytes | memoryview], size: int) -> int:
    """Return how many bytes a message of ``size`` bytes in these frames was on the wire."""
    if size < SHORT_FRAME_BYTES:
        return size + 2 * len(frames)
    return size + 2 * len(frames) + 7 * sum(len(frame) >= SHORT_FRAME_BYTES for frame in frames)


class TooManyFrames(Exception):
    """A message has more than `MOST_FRAMES`; the rest of it is still to be received, by `skip_frames`."""

    def __init__(self) -> None:
        super().__init__(f"sent a message of more than {MOST_FRAMES:,} frames")


def skip_frames(socket: zmq.Socket[Any]) -> bool:
    """Drop a part of what is left of the current message; True if it was all. A peer may have sent millions."""
    for _ in range(SKIPPED_AT_ONCE):
        if not socket.getsockopt(RCVMORE):
            return True
        socket.recv(NOBLOCK, copy=False)
    return False


def receive_rest(socket: zmq.Socket[Any]) -> list[bytes | memoryview]:
    """Receive the frames after the first; large ones are not copied. Raises `TooManyFrames`."""
    frames: list[bytes | memoryview] = []
    while socket.getsockopt(RCVMORE):
        if len(frames) >= MOST_FRAMES:
            raise TooManyFrames
        frame = socket.recv(NOBLOCK, copy=False)
        frames.append(frame.buffer.toreadonly() if len(frame) >= ZERO_COPY_BYTES else frame.bytes)
    return frames


class Watched:
    """A socket whose messages are taken on the event loop.

    ``receive`` takes exactly one message from the socket; ``writable`` is called when it may send again.
    """

    def __init__(
        self, socket: zmq.Socket[Any], receive: Callable[[], None], writable: Callable[[], None] | None = None
    ) -> None:
        self.socket = socket
        self._receive = receive
        self._writable = writable
        self._loop = asyncio.get_running_loop()
        self._fd: int = int(socket.getsockopt(FD))
        self._scheduled = False
        self.closed = False
        self._loop.add_reader(self._fd, self.turn)
        self._schedule()

    def turn(self) -> None:
        """Take a few messages; called when the descriptor signals, and after what could swallow the signal."""
        self._scheduled = False
        getsockopt: Callable[[int], Any] = self.socket.getsockopt
        receive = self._receive
        try:
            for _ in range(PER_TURN):
                if self.closed:
                    return
                events = getsockopt(EVENTS)
                if events & POLLOUT and self._writable is not None:
                    self._writable()
                    if self.closed:
                        return
                if not events & POLLIN:
                    return
                receive()
            if not self.closed:
                events = getsockopt(EVENTS)
                if events & POLLIN:
                    self._schedule()
                elif events & POLLOUT and self._writable is not None:
                    self._writable()
        except BaseException:
            self._schedule()  # the signal of what is left has been consumed
            raise

    def after_send(self) -> None:
        """Sending may have consumed the signal of a message that came in."""
        if not self._scheduled and not self.closed and self._events() & POLLIN:
            self._schedule()

    def after_stall(self) -> None:
        """So may sending in vain, and it may have consumed the signal that there is room as well."""
        if not self._scheduled and not self.closed and self._events() & (POLLIN | POLLOUT):
            self._schedule()

    def drain(self, most: int | None = None) -> bool:
        """Take what is there now, ``most`` messages at most; True if nothing is left."""
        left = itertools.repeat(None) if most is None else itertools.repeat(None, most)
        for _ in left:
            if self.closed or not self._events() & POLLIN:
                return True
            self._receive()
        self._schedule()
        return False

    def _events(self) -> Any:
        return self.socket.getsockopt(EVENTS)

    def _schedule(self) -> None:
        if not self._scheduled and not self.closed:
            self._scheduled = True
            self._loop.call_soon(self.turn)

    def close(self, linger_ms: int | None = None) -> None:
        """Stop watching and close the socket; idempotent."""
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._fd)
            self.socket.close(linger_ms)


class Monitor:
    """The events of one socket: calls ``event(kind, value)``, where value is a descriptor or an error number.

    libzmq's I/O thread waits for room in the pair while it holds the socket's lock. So the pair is unbounded, and
    it outlives the monitor: with the other order, closing would wait for the lock for ever.
    """

    def __init__(self, socket: zmq.Socket[Any], event: Callable[[int, int], None]) -> None:
        self._socket = socket
        self._event = event
        address = f"inproc://monitor-{next(_numbers)}"
        socket.monitor(address, EVENTS_OF_INTEREST)
        pair = socket.context.socket(zmq.PAIR)
        pair.setsockopt(zmq.RCVHWM, 0)
        pair.setsockopt(zmq.LINGER, 0)
        pair.connect(address)
        self._watched = Watched(pair, self._receive)

    def _receive(self) -> None:
        frames = self._watched.socket.recv_multipart(NOBLOCK)
        kind, value = _EVENT.unpack(frames[0])
        self._event(kind & 0xFFFF, value)

    def drain(self) -> None:
        """Report everything that has happened so far."""
        self._watched.drain()

    def close(self) -> None:
        """Stop; must come before the watched socket is closed. Idempotent."""
        if not self._watched.closed:
            self._socket.monitor(None, 0)
            self._watched.close(0)
