"""A fast sender and a slow actor in two processes: neither grows, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from callboard.actors.policy import MailboxPolicy
from callboard.testing.cluster import Cluster

from .victims_for_tests import Flooder, SlowReader
from .waiting import until

MIB = 1024 * 1024
MESSAGES, SIZE = 12_000, 16 * 1024
"""188 MiB in all."""
MAILBOX = MailboxPolicy(messages=256, bytes=4 * MIB)
BOUND = 32 * MIB
"""What each process may grow: 4 MiB in the mailbox, as much at the sender, the buffers between, what Python keeps."""


@pytest.mark.parametrize("cluster", ["tcp", "nats"], indirect=True)
async def test_a_fast_sender_and_a_slow_actor_stay_flat_and_lose_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await cluster.system()
    gate = tmp_path / "gate"
    reader = (await system.spawn(SlowReader, str(gate), mailbox=MAILBOX)).instance(0)
    flooder = (await system.spawn(Flooder, reader)).instance(0).options(deadline_s=120)
    pids = [system.status().process(name).pid for name in ("slow_reader.0", "flooder.0")]
    before = [uss(pid) for pid in pids]
    most = [0, 0]

    def look() -> None:
        for place, pid in enumerate(pids):
            most[place] = max(most[place], uss(pid) - before[place])
        assert max(most) < BOUND, f"the actor's and the sender's process grew by {most} bytes"

    flooding = asyncio.create_task(flooder.ask(Flooder.flood, MESSAGES, SIZE))

    async def held_back() -> bool:
        look()
        sent, held = await flooder.ask(Flooder.state)
        return sent > 0 and held

    await until(held_back)
    for _ in range(20):  # as far as it gets while nothing is taken
        await asyncio.sleep(0.01)
        look()
    sent, _ = await flooder.ask(Flooder.state)
    assert sent <= 2 * MAILBOX.messages + 2
    gate.touch()
    while not flooding.done():
        await asyncio.wait([flooding], timeout=0.02)
        look()
    assert await flooding == MESSAGES

    async def all_taken() -> bool:
        look()
        return await reader.ask(SlowReader.counts) == (MESSAGES, 0)

    await until(all_taken)


def uss(pid: int) -> int:
    """Memory that is this process's alone."""
    return int(psutil.Process(pid).memory_full_info().uss)
