"""Bare pyzmq, two designs: ``blocking`` is the round trip of two blocking sockets; ``batched`` is `bare` on uvloop.

The design comes before the transport: ``--transport blocking+tcp``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable
from time import perf_counter
from typing import Any

import zmq
import zmq.backend

from ..measuring import WARM_UP, Skipped, Values, latencies, measure
from ..payloads import MB, MESSAGES
from .bare import BareClient, Server
from .driving import Servers, drive, run, serve_ready

BIG = 262_144
EVENTS, POLLIN, RCVMORE, SNDMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.RCVMORE), int(zmq.SNDMORE)
FRAMES_PER_PASS = 4


def dealer(context: zmq.Context[Any]) -> zmq.Socket[Any]:
    """A socket without limits."""
    socket: zmq.Socket[Any] = context.socket(zmq.DEALER)
    for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
        socket.setsockopt(option, 0)
    return socket


def bound(context: zmq.Context[Any], transport: str) -> tuple[zmq.Socket[Any], str]:
    """A listening socket and where it listens."""
    socket = dealer(context)
    if transport == "tcp":
        socket.bind("tcp://127.0.0.1:*")
    else:
        socket.bind(f"ipc://{tempfile.gettempdir()}/callboard-bench-{os.getpid()}")
    return socket, str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


class Pipe:
    """A socket in the event loop: its descriptor is watched, and drained a few frames a turn."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self.socket = socket
        self.loop = asyncio.get_running_loop()
        self.received: Callable[[bytes, Any], None]
        self.is_due = False
        self.descriptor = int(socket.getsockopt(zmq.FD))
        self._get = zmq.backend.Socket.get.__get__(socket)  # past pyzmq's wrappers in Python
        self._send = zmq.backend.Socket.send.__get__(socket)

    def start(self, received: Callable[[bytes, Any], None]) -> None:
        """Begin to receive."""
        self.received = received
        self.loop.add_reader(self.descriptor, self._drain)
        self._drain()

    def send(self, head: bytes, body: Any) -> None:
        """Send a frame."""
        if body is None:
            self._send(head)
        else:
            self._send(head, SNDMORE)
            self.socket.send(body, copy=False)
        # The descriptor is edge-triggered, and sending may have swallowed the edge.
        if not self.is_due and self._get(EVENTS) & POLLIN:
            self.is_due = True
            self.loop.call_soon(self._drain)

    def _drain(self) -> None:
        self.is_due = False
        for _ in range(FRAMES_PER_PASS):
            if not self._get(EVENTS) & POLLIN:
                return
            head = self.socket.recv()
            self.received(head, self.socket.recv(copy=False).buffer if self._get(RCVMORE) else None)
        self.is_due = True
        self.loop.call_soon(self._drain)


async def serve_batched(transport: str) -> None:
    """Serve until killed."""
    with zmq.Context() as context:
        socket, endpoint = bound(context, transport)
        pipe = Pipe(socket)
        pipe.start(Server(pipe.send).received)
        serve_ready(endpoint)
        await asyncio.Event().wait()


def serve_blocking(transport: str) -> None:
    """Serve until killed."""
    with zmq.Context() as context:
        socket, endpoint = bound(context, transport)
        serve_ready(endpoint)
        while True:
            frame = socket.recv(copy=False)
            if len(frame.buffer) < BIG:
                socket.send(frame.bytes)
            else:
                socket.send(frame, copy=False)


async def batched(what: str, seconds: float, pid: int, endpoint: str) -> Values:
    """Measure the design in which a turn of the loop is one frame."""
    with zmq.Context() as context, dealer(context) as socket:
        socket.connect(endpoint)
        pipe = Pipe(socket)
        client = BareClient(pipe.send, pid)
        pipe.start(client.received)
        try:
            return await measure(client, what, seconds)
        finally:
            pipe.loop.remove_reader(pipe.descriptor)


def blocking(what: str, seconds: float, endpoint: str) -> Values:
    """Measure the round trip of a thread that does nothing else, with bodies that are encoded already."""
    with zmq.Context() as context, dealer(context) as socket:
        socket.connect(endpoint)
        if what == "ask_seq":
            bodies = [json.dumps(message).encode() for message in MESSAGES]
            for body in bodies[:WARM_UP]:
                socket.send(body)
                socket.recv()
            times: list[float] = []
            end = perf_counter() + seconds
            while (start := perf_counter()) < end:
                socket.send(bodies[len(times) & 4095])
                socket.recv()
                times.append(perf_counter() - start)
            return latencies(times)
        if what not in ("echo_1mb", "echo_64mb"):
            raise Skipped("one blocking round trip after the other is all it does")
        size = MB if what == "echo_1mb" else 64 * MB
        data = bytes(range(256)) * (size // 256)
        count, start = -3, perf_counter()
        while count <= 0 or perf_counter() < start + seconds:
            if count == 0:
                start = perf_counter()
            socket.send(data, copy=False)
            if len(socket.recv(copy=False).buffer) != len(data):
                raise RuntimeError("what came back is not what was sent")
            count += 1
        return {what: (count * len(data) / MB / (perf_counter() - start), "MB/s")}


def measured(what: str, seconds: float, transport: str) -> Values:
    """One measurement between two processes."""
    design, _, plane = transport.partition("+")
    with Servers() as servers:
        pid, endpoint = servers.start(__spec__.name, design, plane)
        if design == "blocking":
            return blocking(what, seconds, endpoint)
        result: Values = run(batched(what, seconds, pid, endpoint))
        return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        if sys.argv[2] == "blocking":
            serve_blocking(sys.argv[3])
        else:
            run(serve_batched(sys.argv[3]))
    else:
        drive(measured)
