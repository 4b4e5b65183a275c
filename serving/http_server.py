"""uvicorn inside an event loop that is not its own: no signal handlers, no logging set-up, a stop that drains."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .errors import MissingServingExtra, PortTaken

if TYPE_CHECKING:
    from uvicorn import Server

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""How long an idle connection of a client stays open; longer than the pools of usual clients and proxies keep it."""

LAST_WORDS_S = 0.2
"""What aborted answers get to send their error."""


async def listen(host: str, port: int, *, share: bool = False) -> socket.socket:
    """Return a listening socket, with ``share`` one of several on this port. Raises `PortTaken`."""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise PortTaken(host, port, f"the host cannot be resolved ({error.strerror})") from None
    family, kind, protocol, _, address = infos[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a predecessor linger
        if share:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortTaken(host, port, os.strerror(error.errno or 0)) from None
    return listener


class HttpServer:
    """Serves one ASGI application on one listening socket, which it owns."""

    def __init__(self, application: Any, listener: socket.socket) -> None:
        """Serve nothing yet. Raises `MissingServingExtra`."""
        self._server, self._up = _make(application)
        self._listener = listener
        self._serving: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "serves" if self._serving is not None and not self._serving.done() else "stopped"
        return f"<HttpServer {state}, {len(self._server.server_state.connections)} connections>"

    async def start(self) -> None:
        """Return when requests are taken."""
        serving = self._server.serve(sockets=[self._listener])
        self._serving = asyncio.get_running_loop().create_task(serving, name="http server")
        up = asyncio.ensure_future(self._up.wait())
        await asyncio.wait((self._serving, up), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._serving.done():
            self._listener.close()
            self._serving.result()

    async def stop(self, abort: Callable[[], int]) -> int:
        """Take no more connections and return when every answer is complete.

        If it is cancelled before, it calls ``abort``, closes the connections, and returns all the same: what
        ``abort`` returned.
        """
        serving = self._serving
        if serving is None:
            self._listener.close()
            return 0
        self._server.should_exit = True
        try:
            await asyncio.wait((serving,))
        except asyncio.CancelledError:
            cut = abort()
            tasks = set(self._server.server_state.tasks)
            if tasks:
                await asyncio.wait(tasks, timeout=LAST_WORDS_S)
            self._server.force_exit = True
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
            await asyncio.wait((serving,))
            return cut
        return 0


def _make(application: Any) -> tuple[Server, asyncio.Event]:
    try:
        import httptools  # noqa: F401 (uvicorn would fall back to a slower parser)
        import uvicorn
    except ImportError as error:
        raise MissingServingExtra(error.name or "uvicorn") from None
    up = asyncio.Event()

    class EmbeddedServer(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """The process's signals are its owner's."""
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            up.set()

    config = uvicorn.Config(
        application,
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    return EmbeddedServer(config), up
