"""One child process and the guardian: how death is seen, and that nothing outlives a killed supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import uvloop

from callboard.supervisor.guardian import Guardian, mark, start_time, sweep, sweep_until_empty
from callboard.supervisor.process import Launch, Process, describe_exit

LOOPS = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)

# A supervisor in miniature: a guardian, and one child of each kind that is hard to get rid of.
PARENT = """
import ctypes, os, socket, subprocess, sys, time
from pathlib import Path
from callboard.supervisor.guardian import Guardian, mark
from callboard.supervisor.process import Launch, Process

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

def tell(*pids):
    with socket.socket(type=socket.SOCK_DGRAM) as report:
        report.sendto(" ".join(map(str, pids)).encode(), ("127.0.0.1", int(os.environ["REPORT"])))

def holds_the_gil():
    tell(os.getpid())
    ctypes.PyDLL(None).sleep(600)

def has_children():
    same_session = subprocess.Popen(SLEEP)
    own_session = subprocess.Popen(SLEEP, start_new_session=True)
    pids = [os.getpid(), same_session.pid, own_session.pid]
    if os.environ["MOMENT"] == "running":
        pids.append(subprocess.Popen(SLEEP, env={}).pid)
    tell(*pids)
    time.sleep(600)

if __name__ == "__main__":
    tree, log = sys.argv[1:]
    guardian = Guardian(tree)
    import parent
    for target in (parent.holds_the_gil, parent.has_children):
        environment = {**os.environ, "CALLBOARD_TREE": mark(tree, target.__name__, 1)}
        process = Process(target.__name__, target, (), Launch(environment=environment, log_path=Path(log)))
        if os.environ["MOMENT"] == "untold":
            continue
        guardian.guard(process.pid)
    print(guardian.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("moment", ["running", "untold", "starting"])
def test_nothing_outlives_a_supervisor_killed_at_any_moment(tmp_path: Path, moment: str) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    tree = f"t{os.getpid()}{moment}"
    with socket.socket(type=socket.SOCK_DGRAM) as report:
        report.bind(("127.0.0.1", 0))
        report.settimeout(20)
        parent = subprocess.Popen(
            [sys.executable, str(tmp_path / "parent.py"), tree, str(tmp_path / "child.log")],
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "REPORT": str(report.getsockname()[1]),
                "MOMENT": moment,
                "PYTHONPATH": str(tmp_path),
            },
        )
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline())]
        if moment != "starting":
            pids += [int(pid) for _ in range(2) for pid in report.recv(1000).split()]
    family = {psutil.Process(pid) for pid in pids} | set(psutil.Process(parent.pid).children(recursive=True))
    parent.kill()
    parent.communicate()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert sweep(tree) == []


def test_the_guardian_ends_by_itself_when_there_is_nothing_to_do() -> None:
    guardian = Guardian("nothing-carries-this-mark")
    assert guardian.is_alive
    os.kill(guardian.pid, signal.SIGINT)
    guardian.guard(2**22 + 1)
    guardian.close()
    assert not guardian.is_alive


def test_a_session_id_given_to_a_stranger_is_spared() -> None:
    stranger = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        assert sweep("no-such-tree", {stranger.pid: start_time(stranger.pid) - 1}) == []
        assert stranger.poll() is None
        assert sweep("no-such-tree", {stranger.pid: start_time(stranger.pid)}) == [stranger.pid]
    finally:
        stranger.kill()
        stranger.communicate()


def test_marks_nest_so_that_the_outer_guardian_finds_the_inner_tree() -> None:
    inner = mark("in", "b.0", 2, outer=mark("out", "a.0", 1))
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"CALLBOARD_TREE": inner}
    )
    try:
        assert sweep("out:a.0:2") == []
        assert sweep_until_empty("out:a.0:1") == []
        assert child.wait(5) == -signal.SIGKILL
    finally:
        child.kill()
        child.communicate()


def launch(tmp_path: Path) -> Launch:
    return Launch(environment=dict(os.environ), log_path=tmp_path / "child.log")


@LOOPS
def test_death_is_seen_at_once_and_named(tmp_path: Path, new_loop: object) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        process = Process("sleeper.0", time.sleep, (600,), launch(tmp_path))
        exited = asyncio.Event()
        process.watch(loop, exited.set)
        assert os.getsid(process.pid) == process.pid
        process.signal(signal.SIGKILL)
        await asyncio.wait_for(exited.wait(), 5)
        assert process.exit_reason == "killed by SIGKILL"
        process.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:  # type: ignore[arg-type]
        runner.run(main())


def test_what_a_child_prints_and_how_it_crashes_is_in_its_log(tmp_path: Path) -> None:
    async def main() -> None:
        exited = asyncio.Event()
        process = Process("crash.0", eval, ("print('printed') or 1/0",), launch(tmp_path))
        process.watch(asyncio.get_running_loop(), exited.set)
        await asyncio.wait_for(exited.wait(), 5)
        assert process.exit_code == 1
        assert process.exit_reason == "exited with code 1"
        process.close()

    asyncio.run(main())
    text = (tmp_path / "child.log").read_text()
    assert "printed" in text
    assert "ZeroDivisionError" in text


def test_an_exit_is_described_in_words() -> None:
    assert describe_exit(-11) == "killed by SIGSEGV"
    assert describe_exit(3) == "exited with code 3"
