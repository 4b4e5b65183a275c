"""The rows of the table of errors that need a process which really dies; docs/errors.md prints them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from callboard.actors.outcome import outcome
from callboard.actors.policy import MailboxPolicy
from callboard.actors.ref import Ref
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster
from callboard.testing.conformance.actors.outcome_table import Row, Where, rows

from .victims_for_tests import Victim
from .waiting import until

pytestmark = pytest.mark.parametrize("cluster", ["tcp", "nats"], indirect=True)


def kill(system: System) -> None:
    os.kill(system.status().process("victim.0").pid, signal.SIGKILL)


async def holding(ref: Ref[Victim], path: Path) -> asyncio.Task[Any]:
    asking = asyncio.create_task(ref.ask(Victim.hold, str(path)))
    await until(path.exists)
    return asking


async def killed_before(system: System, ref: Ref[Victim], path: Path) -> BaseException:
    first = await holding(ref, path)
    outlet: Any = ref._target.pick()
    await until(lambda: outlet._credit == 1)
    asks = [first, *(asyncio.create_task(ref.ask(Victim.note)) for _ in range(2))]
    await until(lambda: outlet._backlog)
    return await last_after_kill(system, asks)


async def killed_queued(system: System, ref: Ref[Victim], path: Path) -> BaseException:
    first = await holding(ref, path)
    outlet: Any = ref._target.pick()
    await until(lambda: outlet._credit == 1)
    asks = [first, asyncio.create_task(ref.ask(Victim.note))]
    await until(lambda: outlet._credit == 0 and outlet.outbox.idle)
    return await last_after_kill(system, asks)


async def killed_running(system: System, ref: Ref[Victim], path: Path) -> BaseException:
    return await last_after_kill(system, [await holding(ref, path)])


async def last_after_kill(system: System, asks: list[asyncio.Task[Any]]) -> BaseException:
    kill(system)
    found: list[Any] = await asyncio.gather(*asks, return_exceptions=True)
    error = found[-1]
    assert isinstance(error, BaseException)
    return error


async def killed_replied(system: System, ref: Ref[Victim], path: Path) -> BaseException:
    (error,) = await asyncio.gather(ref.ask(Victim.last), return_exceptions=True)
    assert isinstance(error, BaseException)
    return error


async def killed_stream(system: System, ref: Ref[Victim], path: Path) -> BaseException:
    stream = ref.stream(Victim.some)
    assert [await anext(stream) for _ in range(2)] == [0, 1]
    kill(system)
    with pytest.raises(Exception, match="after 2 items") as caught:
        await anext(stream)
    return caught.value


Scenario = Callable[[System, Ref[Victim], Path], Awaitable[BaseException]]
KILLED = rows(Where.KILLED)


@pytest.mark.parametrize("row", KILLED, ids=[row.key for row in KILLED])
async def test_what_a_killed_process_had_says_whether_it_ran(
    cluster: Cluster, tmp_path: Path, row: Row
) -> None:
    scenario: Scenario = globals()[row.key]
    system = await cluster.system()
    # Credit that goes back at once would take the answer of `last` along, which has to come too late.
    messages = 1 if row.key in ("killed_before", "killed_queued") else 100
    component = await system.spawn(Victim, mailbox=MailboxPolicy(messages=messages))
    ref = component.instance(0).options(deadline_s=60)
    error = await scenario(system, ref, tmp_path / "held")
    what = outcome(error)
    found = (type(error).__name__, what.executed, what.actor, what.incarnation)
    assert found == (row.error, row.executed, "victim.0", 1), error
    await system.wait_ready(30)
