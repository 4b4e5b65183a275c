"""The actor that speaks HTTP: an OpenAI-compatible server in front of a router."""

from __future__ import annotations

import shlex
from typing import Any

import orjson

from callboard.actors.actor import Actor
from callboard.actors.policy import StopReason
from callboard.actors.ref import Ref
from callboard.transports.address import is_loopback
from callboard.transports.errors import CallboardError, ConfigError

from .application import Application
from .backend import RouterBackend
from .http_server import HttpServer, listen
from .protocol import FrontendLoad
from .router import Router
from .text import TextBackend

MIB = 1024 * 1024


class Frontend(Actor):
    """Serves ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``, ``/health`` and ``/live``.

    ``port`` 0 is a free one; the announcement says which. A ``host`` that is not loopback needs ``insecure``:
    there are no keys, whoever reaches it may use it. ``max_body_bytes`` bounds a request,
    ``max_requests`` how many are answered at a time. With ``share_port`` several frontends of one user listen on one
    port, and the system deals connections out among them. Raises `ConfigError` with every problem, and when it starts
    `PortTaken` and `MissingServingExtra`.

    When it is stopped it refuses new requests and lets the running answers finish within the grace.
    """

    concurrency = 64

    def __init__(
        self,
        router: Ref[Router],
        port: int = 8000,
        host: str = "127.0.0.1",
        *,
        insecure: bool = False,
        max_body_bytes: int = 32 * MIB,
        max_requests: int = 4096,
        share_port: bool = False,
    ) -> None:
        _check(port, host, insecure, max_body_bytes, max_requests, share_port)
        self.port, self.host, self.insecure = port, host, insecure
        self._share_port = share_port
        self._backend = TextBackend(RouterBackend(router))
        self._application = Application(
            self._backend, max_body_bytes=max_body_bytes, max_requests=max_requests
        )
        self._server: HttpServer | None = None

    @classmethod
    def check_args(cls, *, router: Any = None, **args: Any) -> None:
        """Check what the constructor would, without it. Raises `ConfigError` with every problem."""
        _check(**args)

    async def on_start(self) -> None:
        """Listen, and announce the address with a line to try it."""
        listener = await listen(self.host, self.port, share=self._share_port)
        self.port = listener.getsockname()[1]
        try:
            self._server = HttpServer(self._application, listener)
        except BaseException:
            listener.close()
            raise
        await self._server.start()
        if self.insecure and not is_loopback(self.host):
            self.context.log.warning("INSECURE: it listens on %s without keys", self.url)
        self.context.announce(f"{self.url}   try: {curl_line(self.url, await self._a_model())}")

    async def on_stop(self, reason: StopReason) -> None:
        """Let running answers finish; when the time is over, cut them off with an error."""
        self._application.drain()
        if self._server is not None and (cut := await self._server.stop(self._application.abort)):
            self.context.log.warning("%d answers were cut off: the grace was over", cut)

    @property
    def url(self) -> str:
        """Where it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def load(self) -> FrontendLoad:
        """Return what it is doing and has done."""
        return self._application.load()

    async def _a_model(self) -> str:
        try:
            models = await self._backend.models()
        except CallboardError as error:  # it may come later: no reason not to start
            self.context.log.warning("the router does not say which models there are: %s", error)
            models = []
        return models[0].model if models else "MODEL"


def curl_line(url: str, model: str) -> str:
    """Return a command that streams a chat completion."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    text = orjson.dumps(body).decode().replace('":', '": ').replace(',"', ', "')
    return f"curl -N {url}/v1/chat/completions -d {shlex.quote(text)}"


def _check(
    port: int = 1,
    host: str = "127.0.0.1",
    insecure: bool = False,
    max_body_bytes: int = 1,
    max_requests: int = 1,
    share_port: bool = False,
) -> None:
    """What is not given is right."""
    problems = []
    if share_port and port == 0:
        problems.append("port is 0 and share_port is set: a free port is shared with nobody; name the port")
    if not 0 <= port <= 65535:
        problems.append(f"port is {port}; it must be from 0 (a free one) to 65535")
    if not insecure and not is_loopback(host):
        problems.append(
            f'host is "{host}", which is not loopback: whoever reaches it could use the models, there are no keys; '
            'use "127.0.0.1" behind a proxy that asks for keys, or set insecure = true'
        )
    problems += [
        f"{name} is {value}; it must be at least 1"
        for name, value in (("max_body_bytes", max_body_bytes), ("max_requests", max_requests))
        if value < 1
    ]
    if problems:
        raise ConfigError(problems)
