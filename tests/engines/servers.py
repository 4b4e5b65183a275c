"""Servers of real engines as processes of a test, and the client of a system before them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from callboard.supervisor.system import System


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Ours for another Python: without where callboard is."""
    return {name: value for name, value in {**os.environ, **more}.items() if name != "PYTHONPATH"}


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], path: Path, is_up: Callable[[], bool], limit_s: float
) -> Iterator[int]:
    """Run a server until the block ends; gives the group of its processes when it is up."""
    with path.open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        asyncio.run(_ready(server, path, is_up, limit_s))
        yield server.pid
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


async def _ready(
    server: subprocess.Popen[bytes], log: Path, is_up: Callable[[], bool], limit_s: float
) -> None:
    async with asyncio.timeout(limit_s):
        while not await asyncio.to_thread(is_up):
            if server.poll() is not None:
                pytest.fail(f"the server ended: {log.read_text(errors='replace')[-3000:]}")
            await asyncio.sleep(0.1)


@contextmanager
def frozen(group: int) -> Iterator[None]:
    """A server makes no token meanwhile, so that what is done now is done in the middle of an answer."""
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


def read(url: str) -> bytes:
    """What a URL gives. Raises `OSError`."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def client_of(system: System) -> openai.AsyncOpenAI:
    """A client of a system's frontend."""
    (url,) = re.findall(r"^(http://\S+)", system.announcements[-1].text)
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
