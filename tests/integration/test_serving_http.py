"""uvicorn inside somebody else's event loop: it leaves the process alone, and a stop leaves nothing."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from callboard.serving import Frontend
from callboard.serving.errors import MissingServingExtra, PortTaken
from callboard.serving.http_server import HttpServer, listen
from callboard.testing.cluster import Cluster
from callboard.transports.errors import ConfigError

from .http_for_tests import http, is_closed, parsed, request, send
from .waiting import until


class Held:
    """An ASGI application that begins its answer and ends it when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
        self.begun.set()
        try:
            if scope["path"] == "/held":
                await self.go.wait()
            await send({"type": "http.response.body", "body": b"ended"})
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": b"aborted"})

    def abort(self) -> int:
        for task in self.tasks:
            task.cancel()
        return len(self.tasks)


@asynccontextmanager
async def serving(application: Any) -> AsyncIterator[tuple[HttpServer, str]]:
    listener = await listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = HttpServer(application, listener)
    await server.start()
    try:
        yield server, url
    finally:
        await server.stop(lambda: 0)


async def test_it_answers_and_leaves_signals_and_logging_alone(cluster: Cluster) -> None:
    handled = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in handled], logging.getLogger().handlers[:]
    async with serving(Held()) as (_, url):
        assert (await http(url, "GET", "/")).body == b"begun ended"
        assert ([signal.getsignal(number) for number in handled], logging.getLogger().handlers[:]) == before


async def test_a_stop_waits_for_running_answers_and_refuses_new_connections(cluster: Cluster) -> None:
    held = Held()
    async with serving(held) as (server, url):
        reader, writer = await send(url, request("GET", "/held"))
        await held.begun.wait()
        stopping = asyncio.create_task(server.stop(held.abort))
        await until(lambda: is_closed(url))
        assert not stopping.done()
        held.go.set()
        assert parsed(await reader.read()).body == b"begun ended"
        assert await stopping == 0
        writer.close()


async def test_a_stop_that_is_cancelled_ends_what_runs_and_returns(cluster: Cluster) -> None:
    held = Held()
    async with serving(held) as (server, url):
        reader, writer = await send(url, request("GET", "/held"))
        silent, silent_writer = await send(url, b"POST /held HTTP/1.1\r\nHost: x\r\nContent-")
        await held.begun.wait()
        stopping = asyncio.create_task(server.stop(held.abort))
        await asyncio.sleep(0)
        stopping.cancel()
        assert await stopping == 1
        assert parsed(await reader.read()).body == b"begun aborted"
        assert await silent.read() == b""
        for end in (writer, silent_writer):
            end.close()


async def test_a_client_that_does_not_read_cannot_hold_up_a_stop(cluster: Cluster) -> None:
    begun = asyncio.Event()
    tasks: set[asyncio.Task[Any]] = set()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        begun.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True}
        try:
            while True:
                await send(part)
        except asyncio.CancelledError:  # what it wants to say last does not get through either
            await send(part | {"more_body": False})

    def abort() -> int:
        return sum(task.cancel() for task in tasks)

    async with serving(endless) as (server, url):
        _, writer = await send(url, request("GET", "/"))
        await begun.wait()
        stopping = asyncio.create_task(server.stop(abort))
        await asyncio.sleep(0)
        stopping.cancel()
        assert await stopping == 1
        await until(lambda: repr(server) == "<HttpServer stopped, 0 connections>")
        writer.close()


async def test_a_port_that_is_taken_is_an_error_that_names_it(cluster: Cluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            await listen("127.0.0.1", port)
    with pytest.raises(PortTaken, match="cannot be resolved"):
        await listen("no such host.invalid", 0)


async def test_it_listens_on_ipv6_loopback_too(cluster: Cluster) -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        listener = await listen("::1", 0)
    except PortTaken as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error.why}")
    with listener:
        assert listener.getsockname()[0] == "::1"


@pytest.mark.parametrize("missing", ["uvicorn", "httptools"])
async def test_without_the_extra_the_error_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, cluster: Cluster
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with await listen("127.0.0.1", 0) as listener, pytest.raises(MissingServingExtra) as caught:
        HttpServer(Held(), listener)
    assert str(caught.value) == (
        f"the frontend needs {missing}, which is not installed; pip install 'callboard[serving]'"
    )


def test_importing_the_actors_does_not_import_the_http_server() -> None:
    code = (
        "import sys, callboard.serving as s; s.Frontend, s.Router, s.Worker;"
        "print([m for m in ('uvicorn', 'httptools') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_wrong_argument_of_a_frontend_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Frontend(None, port=70_000, host="0.0.0.0", max_body_bytes=0, max_requests=0)  # type: ignore[arg-type]
    names = [problem.split(" ")[0] for problem in caught.value.problems]
    assert names == ["port", "host", "max_body_bytes", "max_requests"]
