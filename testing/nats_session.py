"""The nats-server of a test run: one per test process, started when the first test needs it.

Tests share it and its JetStream, each below a subject prefix of its own. A test that stops or kills a server
makes one for itself: `callboard.supervisor.nats_server.NatsServer`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from callboard.supervisor.guardian import VARIABLE, start_time
from callboard.supervisor.nats_server import NatsServer
from callboard.transports.settings import NetworkSettings

from . import leaks

DIRECTORY = "callboard-nats-"

_servers: list[NatsServer] = []
"""None or one."""


class NatsForTest:
    """What the ``nats_server`` fixture gives to a test: a running server and a prefix of its own on it."""

    def __init__(self, server: NatsServer, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        """First token of every subject of this test."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.server.url

    @property
    def token(self) -> str:
        """The secret that it asks for."""
        return self.server.token

    def settings(self) -> dict[str, Any]:
        """The fields of `NatsSettings` that lead here."""
        return {**self.server.settings(), "prefix": self.prefix}

    def environment(self) -> dict[str, str]:
        """The variables that lead a ``callboard`` command here; there is none for the prefix."""
        return {"NATS_SERVER": self.url, "NATS_AUTH_TOKEN": self.token}

    def network(self, base: NetworkSettings | None = None) -> NetworkSettings:
        """Return ``base`` leading here; its plane is nats if none is given."""
        base = base or NetworkSettings(request_plane="nats")
        return replace(base, nats=replace(base.nats, **self.settings()))

    def __repr__(self) -> str:
        return f"<NatsForTest {self.url} prefix {self.prefix}>"


async def shared(config: pytest.Config, mark: str) -> NatsServer:
    """Return the running server of this process, started now if need be; it is stopped with the test run.

    ``mark`` is the value of ``CALLBOARD_TREE`` without what one test adds to it: the server outlives the test. Raises
    `NatsServerMissing`, `NatsServerFailed`.
    """
    if not _servers:
        _servers.append(NatsServer(_directory(), mark=mark))
        config.add_cleanup(_end)
    (server,) = _servers
    server.resume()
    await server.start()
    leaks.SPARED_PROCESSES.add(server.pid)
    return server


def for_test(request: pytest.FixtureRequest) -> NatsForTest:
    """What the fixture gives. With the ``cluster`` fixture, it is the prefix of its systems."""
    mark, prefix = os.environ.get(VARIABLE, ""), f"t{secrets.token_hex(6)}"
    if "cluster" in request.fixturenames:
        cluster = request.getfixturevalue("cluster")
        mark, prefix = cluster.outer_mark, cluster.token
    return NatsForTest(asyncio.run(shared(request.config, mark)), prefix)


def _directory() -> Path:
    """A directory that says whose it is; those of test runs that were killed are removed.

    Only those of this boot and PID namespace are judged: elsewhere a process id means another process.
    """
    base, mine = Path(tempfile.gettempdir()), f"{DIRECTORY}{_place()}-"
    for path in base.glob(f"{mine}*"):
        owner = re.fullmatch(r"(\d+)\.(\d+)-.*", path.name.removeprefix(mine))
        if owner and max(0, start_time(int(owner[1]))) != int(owner[2]):
            shutil.rmtree(path, ignore_errors=True)  # what belongs to somebody else stays
    own = os.getpid()
    return Path(tempfile.mkdtemp(prefix=f"{mine}{own}.{max(0, start_time(own))}-", dir=base))


def _place() -> str:
    """Name this boot and PID namespace; containers that share a temporary directory differ in the latter."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{boot}{namespace}".encode()).hexdigest()[:12]


def _end() -> None:
    """Stop the server and remove what it stored."""
    for server in _servers:
        leaks.SPARED_PROCESSES.discard(server.pid)
        asyncio.run(server.stop())
        shutil.rmtree(server.directory, ignore_errors=True)
    _servers.clear()
