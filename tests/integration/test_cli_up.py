"""``callboard up`` from its first line to its exit code: what it prints, how it ends, and that it leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from callboard.testing.cluster import Cluster

from .terminal import COMMAND, callboard, finished, launch, up
from .waiting import until

CONFIG = """
namespace = "demo"
[actor.announcer]
class = "actors_for_tests:Announcer"
[actor.echo]
class = "actors_for_tests:Echo"
replicas = 2
restart = { max_restarts = 1, backoff_s = [0.01, 0.01] }
[process.e]
actors = ["echo"]
count = 2
"""

RECORDER = """
[actor.recorder]
class = "actors_for_tests:Recorder"
args = {{ path = "{path}", slow_stop_s = {slow_stop_s} }}
"""

SLOW = """
[actor.slow]
class = "actors_for_tests:Slow"
args = {{ ready = "{ready}", blocking = {blocking} }}
"""


def nothing_is_left(cluster: Cluster) -> bool:
    directory = cluster.directory / "callboard"
    return not directory.exists() or not list(directory.iterdir())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "demo.toml"
    path.write_text(CONFIG)
    return path


async def test_up_prints_a_line_for_each_process_and_what_is_announced(
    cluster: Cluster, config: Path
) -> None:
    process = await launch(COMMAND, "up", config)
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode() for _ in range(5)]
    assert lines[0] == "callboard demo · plane tcp · events zmq\n"
    ready = sorted(line.split() for line in lines[1:4])
    assert [(words[0], words[1], words[3]) for words in ready] == [
        ("announcer.0", "pid", "announcer.0"),
        ("e.0", "pid", "echo.0"),
        ("e.1", "pid", "echo.1"),
    ]
    assert all(words[4] == "ready" and words[6] == "s" for words in ready)
    assert lines[4] == "  announced by announcer.0\n"
    process.send_signal(signal.SIGTERM)
    assert (await finished(process)).code == 0
    assert nothing_is_left(cluster)


async def test_one_interrupt_drains_and_stops(cluster: Cluster, config: Path, tmp_path: Path) -> None:
    book, go_on = tmp_path / "book", tmp_path / "go on"
    limits = "[supervisor]\nstop_grace_s = 60\n"
    config.write_text(CONFIG + RECORDER.format(path=book, slow_stop_s=0.0) + limits)
    process, status = await up(config)
    pids = [entry["pid"] for entry in status["processes"]]
    answer = asyncio.create_task(callboard("call", "echo.0.wait_for", f'["{go_on}"]', "--timeout", 60))
    await until(lambda: is_running("echo.0"))
    os.killpg(process.pid, signal.SIGINT)
    await until(lambda: is_in_state("stopping"))
    go_on.touch()
    left = await finished(process)
    assert (left.code, left.err) == (0, "stopping; once more to kill\n")
    assert (await answer).out == '"waited"\n'
    assert book.read_text().splitlines() == ["start recorder.0", "stop:shutdown recorder.0"]
    assert not any(exists(pid) for pid in pids)
    assert nothing_is_left(cluster)


async def is_running(name: str) -> bool:
    status = (await callboard("ps", "--json")).json()
    actors = {a["name"]: a for p in status["processes"] for a in p["actors"]}
    return actors[name]["counters"].get("running", 0) > 0


def exists(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def test_ctrl_c_in_a_terminal_stops_it(cluster: Cluster, config: Path) -> None:
    near, far = pty.openpty()
    own = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = await launch(
        sys.executable, "-c", own, COMMAND, "up", config,
        stdin=far, stdout=far, stderr=far, start_new_session=True,
    )  # fmt: skip
    os.close(far)
    shown = b""
    while b"announced" not in shown:
        shown += await asyncio.to_thread(os.read, near, 4096)
    os.write(near, b"\x03")
    while True:
        try:
            shown += await asyncio.to_thread(os.read, near, 4096)
        except OSError:  # the terminal has nobody left
            break
    assert (await finished(process)).code == 0
    os.close(near)
    assert b"stopping; once more to kill" in shown
    assert nothing_is_left(cluster)


async def test_a_second_interrupt_kills_what_does_not_stop(
    cluster: Cluster, config: Path, tmp_path: Path
) -> None:
    config.write_text(
        CONFIG
        + RECORDER.format(path=tmp_path / "book", slow_stop_s=600)
        + "[supervisor]\nstop_grace_s = 600\n"
    )
    process, status = await up(config)
    process.send_signal(signal.SIGINT)
    await until(lambda: is_in_state("stopping"))
    process.send_signal(signal.SIGINT)
    left = await finished(process)
    assert (left.code, left.err) == (0, "stopping; once more to kill\nkilling\n")
    assert not any(exists(entry["pid"]) for entry in status["processes"])
    assert nothing_is_left(cluster)


async def is_in_state(state: str) -> bool:
    shown = await callboard("ps", "--json")
    return shown.code == 0 and shown.json()["state"] == state


@pytest.mark.parametrize("way", ["interrupt", "command"])
@pytest.mark.parametrize("blocking", [False, True], ids=["hook", "constructor"])
async def test_a_stop_while_it_starts_ends_it_in_peace(
    cluster: Cluster, config: Path, tmp_path: Path, way: str, blocking: bool
) -> None:
    book = tmp_path / "book"
    slow = SLOW.format(ready=tmp_path / "never", blocking=str(blocking).lower())
    limits = "[supervisor]\nstop_grace_s = 0.5\n"
    config.write_text(CONFIG + RECORDER.format(path=book, slow_stop_s=0.0) + slow + limits)
    process = await launch(COMMAND, "up", config)
    await until(book.exists)
    if way == "interrupt":
        process.send_signal(signal.SIGINT)
    else:
        assert (await callboard("stop")).code == 0
    left = await finished(process)
    assert (left.code, left.err) == (0, "stopping; once more to kill\n" if way == "interrupt" else "")
    assert book.read_text().splitlines() == ["start recorder.0", "stop:shutdown recorder.0"]
    assert nothing_is_left(cluster)


@pytest.mark.parametrize("where", ["constructor", "hook", "exit"])
async def test_an_actor_that_does_not_start_shows_why_and_ends_with_1(
    cluster: Cluster, config: Path, tmp_path: Path, where: str
) -> None:
    book = tmp_path / "book"
    broken = f'[actor.broken]\nclass = "actors_for_tests:Broken"\nargs = {{ where = "{where}" }}\n'
    config.write_text(CONFIG + broken + RECORDER.format(path=book, slow_stop_s=0.0))
    left = await callboard("up", config)
    assert left.code == 1
    assert "broken.0 did not start: " in left.err
    assert {
        "constructor": 'raise RuntimeError("the constructor failed")',
        "hook": 'raise RuntimeError("the hook failed")',
        "exit": "last words in the log",
    }[where] in left.err
    assert "supervisor/supervisor.py" not in left.err
    if book.exists():
        assert book.read_text().splitlines() in (["start recorder.0", "stop:shutdown recorder.0"], [])
    assert nothing_is_left(cluster)


async def test_a_system_that_fails_too_often_ends_with_1_and_the_end_of_the_log(
    cluster: Cluster, config: Path
) -> None:
    process, status = await up(config)
    await callboard("call", "echo.0.print_line", '["last words"]')
    for incarnation in (1, 2):
        await until(lambda number=incarnation: is_ready("echo.0", number))  # type: ignore[misc]
        await callboard("call", "echo.0.exit", "[9]")
    left = await finished(process)
    assert left.code == 1
    assert "the system was stopped because of echo.0: process e.0 exited with code 9; its budget" in left.err
    assert "last words" in left.err
    assert "e.0 is back after" in left.err
    assert not any(exists(entry["pid"]) for entry in status["processes"])
    assert nothing_is_left(cluster)


async def test_a_second_system_of_the_namespace_ends_with_5_and_harms_nobody(
    cluster: Cluster, config: Path
) -> None:
    process, status = await up(config)
    left = await callboard("up", config)
    assert left.code == 5
    assert f"(process {status['pid']})" in left.err
    assert (await callboard("call", "echo.hello", '["you"]')).code == 0
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 0


async def test_a_taken_port_is_named_with_the_ways_out(cluster: Cluster, config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(f'[actor.echo]\nclass = "actors_for_tests:Echo"\n[network]\nport = {port}\n')
        left = await callboard("up", config)
    assert left.code == 1
    assert f"port {port} is taken; set network.port (DYN_TCP_RPC_PORT) to another one, or to 0" in left.err
    assert "Traceback" not in left.err
    assert nothing_is_left(cluster)


async def test_a_taken_port_of_a_later_process_is_named_with_those_of_all(
    cluster: Cluster, config: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f'[actor.echo]\nclass = "actors_for_tests:Echo"\nreplicas = 2\n[network]\nport = {port - 1}\n'
        config.write_text(text)
        left = await callboard("up", config)
    assert left.code == 1
    assert f"port {port} is taken" in left.err or f"port {port - 1} is taken" in left.err
    assert f"2 processes need the ports {port - 1} to {port}, one each" in left.err
    assert "Traceback" not in left.err
    assert nothing_is_left(cluster)


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
async def test_it_outlives_whoever_read_its_first_line(
    cluster: Cluster, config: Path, words: tuple[str, ...]
) -> None:
    near, far = os.pipe()
    process = await launch(COMMAND, "up", config, *words, stdout=far, stderr=far)
    os.close(far)
    if words:
        await until(lambda: is_in_state("ready"))
    else:
        await asyncio.to_thread(os.read, near, 1)
    os.close(near)
    await until(lambda: is_in_state("ready"))
    await callboard("call", "echo.0.exit", "[9]")
    await until(lambda: is_ready("echo.0", 2))
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 0


async def is_ready(name: str, incarnation: int) -> bool:
    shown = await callboard("ps", "--json")
    actors = {a["name"]: a for p in shown.json()["processes"] for a in p["actors"]}
    return (actors[name]["state"], actors[name]["incarnation"]) == ("ready", incarnation)


async def test_after_it_was_frozen_itself_it_blames_none_of_its_processes(
    cluster: Cluster, config: Path
) -> None:
    config.write_text(CONFIG + "[supervisor]\nheartbeat_s = 0.1\nsilence_s = 1\n")
    process, _ = await up(config)
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(2.0)  # longer than the silence that counts as a stall
    process.send_signal(signal.SIGCONT)
    for _ in range(2):
        status = (await callboard("ps", "--json")).json()
        assert {entry["health"] for entry in status["processes"]} == {"alive"}
    process.send_signal(signal.SIGINT)
    left = await finished(process)
    assert (left.code, left.err) == (0, "stopping; once more to kill\n")


async def test_a_supervisor_that_does_not_answer_is_reported_with_exit_code_4(
    cluster: Cluster, config: Path
) -> None:
    process, _ = await up(config)
    process.send_signal(signal.SIGSTOP)
    for words in (("ps",), ("stop",), ("call", "echo.hello", '["you"]')):
        shown = await callboard(*words)
        assert (shown.code, shown.out) == (4, "")
        assert shown.err == "the system has not answered within 5 s: it is frozen or busy\n"
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 0


async def test_nohup_means_that_it_stays_when_the_terminal_goes(cluster: Cluster, config: Path) -> None:
    process = await launch(
        "sh", "-c", 'trap "" HUP; exec "$@"', "sh", COMMAND, "up", config, stdout=PIPE, stderr=STDOUT
    )
    assert process.stdout is not None
    while b"announced" not in await process.stdout.readline():
        pass
    process.send_signal(signal.SIGHUP)
    assert (await callboard("ps")).code == 0
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 0
