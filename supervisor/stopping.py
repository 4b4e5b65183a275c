"""The stop ladder: drain and stop actors in reverse start order, end the processes, terminate, kill."""

from __future__ import annotations

import asyncio
import signal
import time

from callboard.actors.policy import DownKind, StopReason

from . import control
from .liveness import Health
from .placement import start_levels
from .running import RunningProcess
from .slots import ActorSlot
from .status import State
from .supervisor import Supervisor

LEAST_S = 0.3
"""What each step gets, however little of the grace is left."""

TERMINATE_S = 0.7
KILL_S = 5.0


async def stop(supervisor: Supervisor, grace_s: float) -> None:
    """Stop every process; returns when none is left. With a grace of 0 everything is killed at once.

    The supervisor is still to be closed.
    """
    deadline = time.monotonic() + grace_s
    await supervisor.stop_restarting()
    for slot in supervisor.slots.values():
        if slot.running is not None:
            slot.state = State.STOPPING
    for running in supervisor.running:
        if (
            running.liveness.health is Health.FROZEN
        ):  # one that freezes from now on is killed when that is seen
            running.kill()
    if grace_s > 0:
        await _stop_actors(supervisor, deadline)
        left = _left(deadline)
        for running in supervisor.running:
            running.send(control.Stop(left))
        if not await _gone(supervisor.running, left):
            for running in supervisor.running:
                running.process.signal(signal.SIGTERM)
            await _gone(supervisor.running, TERMINATE_S)
    kill(supervisor)
    await _gone(supervisor.running, KILL_S)
    for slot in supervisor.slots.values():
        for actor in slot.actors.values():
            if actor.state is not State.FAILED:
                actor.state = State.STOPPED


def kill(supervisor: Supervisor) -> None:
    """Kill every process now; a `stop` that goes on ends by that."""
    for running in supervisor.running:
        running.kill()


def _left(deadline: float) -> float:
    return max(LEAST_S, deadline - time.monotonic())


async def _stop_actors(supervisor: Supervisor, deadline: float) -> None:
    for level in reversed(start_levels(supervisor.specs)):
        stops = []
        for slot in supervisor.slots.values():
            for actor in slot.actors.values():
                if (
                    actor.instance.spec.name in level
                    and slot.running is not None
                    and actor.location is not None
                ):
                    left = _left(deadline)
                    message = control.StopActor(actor.name, StopReason.SHUTDOWN.value, left)
                    stops.append(_stop_actor(supervisor, slot.running, actor, message))
                    actor.state = State.STOPPING
        await asyncio.gather(*stops)


async def _stop_actor(
    supervisor: Supervisor, running: RunningProcess, actor: ActorSlot, message: control.StopActor
) -> None:
    """Those who are stopped later hear of it, too."""
    if await running.stop_actor(message, message.grace_s + LEAST_S):
        supervisor.roster.remove(actor.name, actor.incarnation, "it was stopped", DownKind.STOPPED)


async def _gone(processes: list[RunningProcess], limit_s: float) -> bool:
    return all(await asyncio.gather(*(running.gone(limit_s) for running in processes)))
