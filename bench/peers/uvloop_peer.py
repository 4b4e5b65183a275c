"""Sockets of the event loop and nothing else: `bare` on an `asyncio.Protocol`, length before each frame."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import uvloop

from ..measuring import Values, measure
from .bare import BareClient, Server
from .driving import Servers, drive, serve_ready

LENGTHS = struct.Struct("<II")
NO_LIMIT = 1 << 30


class Pipe(asyncio.Protocol):
    """Frames on one connection."""

    def __init__(self, handler: Callable[[Pipe], Callable[[bytes, Any], None]]) -> None:
        self._handler = handler
        self._buffer = bytearray()
        self._missing = LENGTHS.size
        self._received: Callable[[bytes, Any], None]
        self._transport: Any

    def connection_made(self, transport: Any) -> None:
        """Set the options, and make who handles frames."""
        self._transport = transport
        transport.set_write_buffer_limits(NO_LIMIT)
        end = transport.get_extra_info("socket")
        if end.family != socket.AF_UNIX:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = self._handler(self)

    def send(self, head: bytes, body: Any) -> None:
        """Send a frame."""
        if body is None:
            self._transport.write(LENGTHS.pack(len(head), 0) + head)
        else:
            self._transport.writelines([LENGTHS.pack(len(head), len(body)), head, body])

    def data_received(self, data: bytes) -> None:
        """Hand over every frame that is complete."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._missing:
                return
            data, self._buffer = bytes(self._buffer), bytearray()
        at, end = 0, len(data)
        while True:
            self._missing = LENGTHS.size
            if end - at < LENGTHS.size:
                break
            head, body = LENGTHS.unpack_from(data, at)
            self._missing += head + body
            if end - at < self._missing:
                break
            at += LENGTHS.size
            self._received(data[at : at + head], data[at + head : at + head + body] if body else None)
            at += head + body
        if at < end:
            self._buffer += data[at:]


async def serve(transport: str) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()

    def pipe() -> Pipe:
        return Pipe(lambda pipe: Server(pipe.send).received)

    if transport == "tcp":
        server = await loop.create_server(pipe, "127.0.0.1", 0)
        serve_ready(str(server.sockets[0].getsockname()[1]))
    else:
        path = f"{tempfile.gettempdir()}/callboard-bench-{os.getpid()}"
        server = await loop.create_unix_server(pipe, path)
        serve_ready(path)
    await server.serve_forever()


async def client(what: str, seconds: float, pid: int, address: str) -> Values:
    """Connect and measure."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[BareClient] = loop.create_future()

    def handler(pipe: Pipe) -> Callable[[bytes, Any], None]:
        made.set_result(BareClient(pipe.send, pid))
        return made.result().received

    if address.isdecimal():
        await loop.create_connection(lambda: Pipe(handler), "127.0.0.1", int(address))
    else:
        await loop.create_unix_connection(lambda: Pipe(handler), address)
    return await measure(await made, what, seconds)


def measured(what: str, seconds: float, transport: str) -> Values:
    """One measurement between two processes."""
    with Servers() as servers:
        pid, address = servers.start(__spec__.name, transport)
        return uvloop.run(client(what, seconds, pid, address))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(sys.argv[2]))
    else:
        drive(measured)
