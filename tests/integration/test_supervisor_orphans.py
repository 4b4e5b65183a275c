"""Nothing outlives a killed supervisor, whatever its processes are doing, and its place can be taken at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from callboard.supervisor.guardian import VARIABLE
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .actors_for_tests import Echo
from .terminal import COMMAND, callboard, finished, launch, up
from .waiting import until

GONE_S = 5.0
"""Promise: from the death of a supervisor until no process of its tree is alive."""

CONFIG = """
namespace = "orphans"
[actor.echo]
class = "actors_for_tests:Echo"
replicas = 4
[process.e]
actors = ["echo"]
count = 4
"""

SLOW = """
[actor.slow]
class = "actors_for_tests:Slow"
args = {{ ready = "{ready}", blocking = {blocking} }}
"""

SCRIPT = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from actors_for_tests import Echo
from callboard import System

async def main():
    async with System(namespace="orphans") as system:
        await system.spawn(Echo, replicas=4, processes=4, name="echo")
        print("{}", flush=True)
        await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
"""


def tree_of(cluster: Cluster) -> str:
    """The mark of the system's processes, as its supervisor noted it."""
    path = cluster.directory / "callboard" / "orphans" / "state.json"
    return str(json.loads(path.read_bytes())["tree"])


def marked(tree: str) -> list[psutil.Process]:
    """Every living process with the mark in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            value = process.environ().get(VARIABLE, "")
            if tree in value.split("/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def guardian_of(supervisor: Process) -> int:
    for child in psutil.Process(supervisor.pid).children():
        with suppress(psutil.Error):
            if any(word.endswith("guardian.py") for word in child.cmdline()):
                return child.pid
    return 0


async def make_hard_to_end(supervisor: Process) -> None:
    """One process each: blocked, frozen, deaf to SIGTERM with a grandchild in its own session, idle."""
    async with await System.connect(namespace="orphans") as system:
        busy, frozen, deaf = (system.ref("echo", Echo).instance(index) for index in range(3))
        busy.tell(Echo.block, 600)
        await deaf.ask(Echo.ignore_sigterm)
        await deaf.ask(Echo.leave_a_grandchild)
        os.kill((await frozen.ask(Echo.where))["pid"], signal.SIGSTOP)


async def assert_all_gone(cluster: Cluster, tree: str, *others: psutil.Process) -> None:
    await until(lambda: not marked(tree), GONE_S)
    _, alive = await asyncio.to_thread(psutil.wait_procs, others, GONE_S)
    assert alive == []


async def starts_again(path: Path) -> None:
    process, status = await up(path)
    assert status["state"] == "ready"
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 0


async def up_or_script(kind: str, path: Path) -> Process:
    if kind == "up":
        process, _ = await up(path)
        return process
    script = path.with_name("script.py")
    script.write_text(SCRIPT)
    process = await launch(sys.executable, script, Path(__file__).parent)
    assert process.stdout is not None
    assert await process.stdout.readline()
    return process


@pytest.mark.parametrize("kind", ["up", "script"])
async def test_nothing_outlives_a_killed_supervisor_and_its_place_is_free(
    cluster: Cluster, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "orphans.toml"
    path.write_text(CONFIG)
    supervisor = await up_or_script(kind, path)
    await make_hard_to_end(supervisor)
    tree, guardian = tree_of(cluster), psutil.Process(guardian_of(supervisor))
    assert len(marked(tree)) == 5
    supervisor.kill()
    assert (await finished(supervisor)).code == -signal.SIGKILL
    await assert_all_gone(cluster, tree, guardian)
    await starts_again(path)


async def test_the_place_of_a_killed_supervisor_is_free_before_its_processes_are_gone(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "orphans.toml"
    path.write_text(CONFIG)
    supervisor, _ = await up(path)
    await make_hard_to_end(supervisor)
    tree = tree_of(cluster)
    supervisor.kill()
    await starts_again(path)
    assert marked(tree) == []
    await finished(supervisor)


async def test_a_killed_guardian_is_replaced_at_once_and_the_new_one_knows_everything(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "orphans.toml"
    path.write_text(CONFIG)
    supervisor, _ = await up(path)
    await make_hard_to_end(supervisor)
    tree, before = tree_of(cluster), guardian_of(supervisor)
    os.kill(before, signal.SIGKILL)
    await until(lambda: guardian_of(supervisor) not in (0, before))
    guardian = psutil.Process(guardian_of(supervisor))
    supervisor.kill()
    await finished(supervisor)
    await assert_all_gone(cluster, tree, guardian)
    await starts_again(path)


async def test_what_outlives_guardian_and_supervisor_killed_together_ends_with_the_next_start(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "orphans.toml"
    path.write_text(CONFIG)
    supervisor, _ = await up(path)
    await make_hard_to_end(supervisor)
    tree, guardian = tree_of(cluster), guardian_of(supervisor)
    os.kill(supervisor.pid, signal.SIGSTOP)
    os.kill(guardian, signal.SIGKILL)
    supervisor.kill()
    await finished(supervisor)
    await starts_again(path)
    assert marked(tree) == []


@pytest.mark.parametrize("blocking", [True, False], ids=["constructor", "hook"])
async def test_a_supervisor_killed_while_it_starts_leaves_nothing(
    cluster: Cluster, tmp_path: Path, blocking: bool
) -> None:
    path = tmp_path / "orphans.toml"
    path.write_text(CONFIG + SLOW.format(ready=tmp_path / "ready", blocking=str(blocking).lower()))
    supervisor = await launch_up(path)
    tree = await tree_when_claimed(cluster)

    async def only_slow_is_missing() -> bool:
        shown = await callboard("ps", "-n", "orphans", "--json")
        return shown.code == 0 and states(shown.json()) == {"echo": "ready", "slow": "starting"}

    await until(only_slow_is_missing)
    supervisor.kill()
    await finished(supervisor)
    await assert_all_gone(cluster, tree)
    (tmp_path / "ready").touch()
    await starts_again(path)


@pytest.mark.parametrize("processes", [1, 3])
async def test_a_supervisor_killed_as_soon_as_it_has_children_leaves_nothing(
    cluster: Cluster, tmp_path: Path, processes: int
) -> None:
    path = tmp_path / "orphans.toml"
    path.write_text(CONFIG)
    supervisor = await launch_up(path)
    tree = await tree_when_claimed(cluster)
    await until(lambda: len(psutil.Process(supervisor.pid).children()) >= processes)
    family = psutil.Process(supervisor.pid).children(recursive=True)
    supervisor.kill()
    await finished(supervisor)
    await assert_all_gone(cluster, tree, *family)
    await starts_again(path)


async def launch_up(path: Path) -> Process:
    return await launch(COMMAND, "up", path, start_new_session=True)


async def tree_when_claimed(cluster: Cluster) -> str:
    def claimed() -> bool:
        try:
            return bool(tree_of(cluster))
        except OSError:
            return False

    await until(claimed)
    return tree_of(cluster)


def states(status: dict[str, Any]) -> dict[str, str]:
    return {a["name"].partition(".")[0]: a["state"] for p in status["processes"] for a in p["actors"]}
