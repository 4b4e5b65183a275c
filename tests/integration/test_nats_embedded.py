"""`callboard up --nats-embedded`: a nats-server comes and goes with the system, whatever ends it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from callboard.supervisor.errors import NatsServerMissing, SystemFailed
from callboard.supervisor.nats_server import find_binary
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .actors_for_tests import Echo
from .terminal import COMMAND, callboard, finished, launch, up
from .waiting import nats_servers, until

CONFIG = """
namespace = "embedded"
[actor.echo]
class = "actors_for_tests:Echo"
replicas = 2
[process.e]
actors = ["echo"]
count = 2
"""
PLANES = ["tcp", "nats"]
BACK_S = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "embedded.toml"
    file.write_text(CONFIG)
    return file


def server_in(status: dict[str, Any]) -> str:
    """What the system announced of its nats-server."""
    (text,) = [entry["text"] for entry in status["announcements"] if entry["actor"] == "nats-server"]
    return str(text)


@pytest.mark.parametrize("plane", PLANES)
async def test_up_starts_it_beside_the_system_and_stops_it_after(
    cluster: Cluster, path: Path, plane: str
) -> None:
    process, status = await up(path, "--nats-embedded", "--plane", plane)
    (server,) = nats_servers(process.pid)
    assert server_in(status).startswith("nats-server at nats://127.0.0.1:")
    directory = Path(status["directory"])
    token = (directory / "nats" / "nats-server.conf").read_text().partition('token: "')[2][:64]
    assert len(token) == 64
    shown = await callboard("ps", "-n", "embedded")
    assert shown.code == 0
    assert "nats-server: nats-server at nats://127.0.0.1:" in shown.out
    everything = " ".join(word for p in psutil.process_iter(["cmdline"]) for word in p.info["cmdline"] or ())
    assert token not in shown.out + str(status) + everything
    answer = await callboard("call", "-n", "embedded", "echo.where")
    assert answer.code == 0, answer
    process.send_signal(signal.SIGINT)
    done = await finished(process)
    assert (done.code, done.err) == (0, "stopping; once more to kill\n")
    assert not server.is_running()
    assert not directory.exists()


@pytest.mark.parametrize("plane", PLANES)
async def test_nothing_of_it_outlives_a_killed_up(cluster: Cluster, path: Path, plane: str) -> None:
    process, _ = await up(path, "--nats-embedded", "--plane", plane)
    (server,) = nats_servers(process.pid)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    await finished(process)
    _, alive = await asyncio.to_thread(psutil.wait_procs, [server, *family], 10)
    assert alive == []
    process, status = await up(path, "--nats-embedded", "--plane", plane)
    assert status["state"] == "ready"
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 0


async def test_a_second_interrupt_kills_it_too(cluster: Cluster, path: Path) -> None:
    process, _ = await up(path, "--nats-embedded", "--plane", "tcp")
    family = psutil.Process(process.pid).children(recursive=True)
    for child in family:
        if child.name() != "nats-server" and "guardian.py" not in " ".join(child.cmdline()):
            child.suspend()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    await finished(process)
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, 10)
    assert alive == []


@pytest.mark.parametrize("plane", PLANES)
async def test_a_killed_nats_server_comes_back_on_its_port(cluster: Cluster, plane: str) -> None:
    events: list[str] = []
    system = System(namespace=cluster.token, plane=plane, nats_embedded=True)
    system.on_event = events.append
    async with system:
        (before,) = nats_servers(os.getpid())
        (announced,) = [a.text for a in system.announcements]
        before.kill()
        await until(lambda: any("is back at" in event for event in events), BACK_S)
        (after,) = nats_servers(os.getpid())
        assert after.pid != before.pid
        assert [a.text for a in system.announcements] == [announced]
        assert events[0].startswith("nats-server killed by SIGKILL; it starts again on its port")
        echo = await system.spawn(Echo)
        assert await echo.ask(Echo.where)


async def test_a_nats_server_that_dies_too_often_stops_the_system(cluster: Cluster, tmp_path: Path) -> None:
    system = System(namespace=cluster.token, plane="tcp", nats_embedded=True)
    await system.start()

    async def killing() -> None:
        while True:
            for server in nats_servers(os.getpid()):
                server.kill()
            await asyncio.sleep(0.01)

    task = asyncio.ensure_future(killing())
    try:
        with pytest.raises(SystemFailed, match=r"because of nats-server: .*5 of 5 restarts in 60 s"):
            await asyncio.wait_for(system.wait_stopped(), 60)
    finally:
        task.cancel()
        await asyncio.wait((task,))
    assert nats_servers(os.getpid()) == []


async def test_a_nats_server_whose_program_is_gone_stops_the_system_and_says_why(
    cluster: Cluster, tmp_path: Path
) -> None:
    program, events = tmp_path / "nats-server", list[str]()
    program.symlink_to(find_binary())
    system = System(namespace=cluster.token, plane="tcp", nats_embedded=program)
    system.on_event = events.append
    async with system:
        (server,) = nats_servers(os.getpid())
        program.unlink()
        server.kill()
        with pytest.raises(SystemFailed, match=r"nats-server: did not start: .*5 of 5 restarts in 60 s"):
            await asyncio.wait_for(system.wait_stopped(), 60)
    assert [event for event in events if f"{program} is no program that can be run" in event]


async def test_without_a_program_the_system_does_not_start_and_leaves_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = System(namespace=cluster.token, plane="tcp", nats_embedded=tmp_path / "nothing")
    with pytest.raises(NatsServerMissing):
        await system.start()
    assert system.directory is None or not system.directory.exists()


async def test_the_flags_of_up_are_refused_when_they_make_no_sense(
    cluster: Cluster, path: Path, tmp_path: Path
) -> None:
    alone = await callboard("up", path, "--nats-server", path)
    assert alone.code == 2
    assert "--nats-server is the program of --nats-embedded; give both" in alone.err
    missing = await callboard(
        "up", path, "--plane", "tcp", "--nats-embedded", "--nats-server", tmp_path / "no"
    )
    assert missing.code == 1
    assert "no is no program that can be run; pip install 'callboard[nats-server]'" in missing.err


async def test_an_interrupt_while_the_nats_server_starts_leaves_nothing(
    cluster: Cluster, path: Path, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 600\n")
    slow.chmod(0o700)
    process = await launch(COMMAND, "up", path, "--plane", "tcp", "--nats-embedded", "--nats-server", slow)
    await until((tmp_path / "started").exists)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    done = await finished(process)
    assert "Traceback" not in done.err
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, 10)
    assert alive == []
