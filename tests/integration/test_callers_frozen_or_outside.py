"""What a caller has asked for ends with it, also if it is frozen, or if nobody supervises it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from callboard.actors.ref import Ref
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .held_actors import KINDS, Caller, Held
from .waiting import until

ON_EACH = pytest.mark.parametrize("cluster", ["tcp", "ipc", "nats"], indirect=True)


async def begun(held: Ref[Held]) -> None:
    async def as_expected() -> bool:
        now, _, waiting = await held.ask(Held.look)
        return (now, waiting) == (sorted(KINDS), 1)

    await until(as_expected)


async def ended(held: Ref[Held]) -> None:
    async def as_expected() -> bool:
        now, over, waiting = await held.ask(Held.look)
        return (now, over, waiting) == (sorted(KINDS), sorted(KINDS), 0)

    await until(as_expected)


async def pair(cluster: Cluster) -> tuple[System, Ref[Held], Ref[Caller]]:
    system = await cluster.system()
    held = (await system.spawn(Held)).instance(0)
    return system, held, await system.spawn(Caller)


@ON_EACH
async def test_everything_that_a_frozen_process_has_asked_for_ends_when_it_is_killed(cluster):
    system, held, caller = await pair(cluster)
    await caller.ask(Caller.call, held)
    await begun(held)
    pid = system.status().process("caller.0").pid
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    await ended(held)


@ON_EACH
async def test_everything_that_a_frozen_process_has_asked_for_ends_when_it_counts_as_down(cluster):
    system, held, caller = await pair(cluster)
    await caller.ask(Caller.call, held)
    await begun(held)
    await system.pause("caller.0")
    await ended(held)
    await system.resume("caller.0")


@ON_EACH
async def test_everything_that_a_killed_client_from_outside_has_asked_for_ends(
    cluster: Cluster, tmp_path: Path
):
    """The supervisor did not start it, and hears of its end by the admin socket."""
    system = await cluster.system()
    held = (await system.spawn(Held)).instance(0)
    script = tmp_path / "client.py"
    script.write_text(
        "import asyncio, sys\n"
        "from callboard.supervisor.system import System\n"
        "async def main():\n"
        "    async with await System.connect(namespace=sys.argv[1]) as system:\n"
        "        ref = system.ref('held.0').options(deadline_s=600)\n"
        "        async def read():\n"
        "            async for _ in ref.stream('trickle'): pass\n"
        "        asks = [ref.ask(kind) for kind in ('hold', 'hold_beside', 'hold_thread', 'queued')]\n"
        "        await asyncio.gather(read(), *asks)\n"
        "asyncio.run(main())\n"
    )
    client = await asyncio.create_subprocess_exec(sys.executable, script, system.namespace)
    try:
        await begun(held)
    finally:
        client.kill()
        await client.wait()
    await ended(held)
