"""A caller whose process is killed leaves nothing running behind it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from callboard.testing.cluster import Cluster

from .victims_for_tests import Asks, Worker
from .waiting import until


@pytest.mark.parametrize("cluster", ["tcp", "nats"], indirect=True)
async def test_what_a_killed_process_has_asked_is_cancelled_in_every_manner(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await cluster.system()
    worker = (await system.spawn(Worker, str(tmp_path))).instance(0)
    caller = (await system.spawn(Asks, worker)).instance(0).options(deadline_s=60)
    manners = ("wait", "wait_in_thread", "wait_beside", "items")
    asks = [asyncio.create_task(caller.ask(Asks.pass_on, manner)) for manner in manners]

    def noted(what: str) -> set[str]:
        return {path.suffix[1:] for path in tmp_path.glob(f"{what}.*")}

    await until(lambda: noted("begun") == set(manners))
    os.kill(system.status().process("asks.0").pid, signal.SIGKILL)
    await asyncio.gather(*asks, return_exceptions=True)
    await until(lambda: noted("cancelled") == set(manners))
    assert noted("ended") == set()
    await system.wait_ready(30)
    assert await worker.ask(Worker.ping) == 1  # it lives, in its first incarnation
