"""How long a flooding sender delays what must not wait: a cancellation, a stop, a sign of life of its target.

Each value is the worst of all measurements, over cheap handlers and such that take a millisecond of the processor's
time. The promise in SEMANTICS.md is 50 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic, perf_counter

from callboard.actors.policy import StopReason
from callboard.actors.ref import Ref
from callboard.supervisor import control

from .cases import Better, case
from .flood_actors import Flooded, Flooder
from .payloads import MESSAGES
from .rig import Rig

SEVERAL = 3
HANDLERS_S = (0.0, 0.001)
SETTLE_S = 0.3
"""Until the mailbox is full and both sides run at their pace."""

PAUSE_S = 0.01
LIMIT_S = 60.0

Probe = Callable[[Rig, Ref[Flooded]], Awaitable[float]]


@asynccontextmanager
async def _flood(rig: Rig, senders: int, handler_s: float) -> AsyncIterator[Ref[Flooded]]:
    """Give the flooded actor while ``senders`` processes flood it."""
    target = (await rig.spawn(Flooded, handler_s)).instance(0)
    await rig.spawn(Flooder, target, MESSAGES[0], replicas=senders, processes=senders)
    await asyncio.sleep(SETTLE_S)
    yield target


async def _worst(rig: Rig, seconds: float, senders: int, probe: Probe, *, once: bool = False) -> float:
    """Return the worst of the delays in ms; a probe that can be made ``once`` gets a new target each time."""
    rig.system  # noqa: B018 (skips on the memory plane: there sender and target share a loop)
    delays: list[float] = []
    for handler_s in HANDLERS_S:
        end = perf_counter() + seconds / len(HANDLERS_S)
        while True:
            async with _flood(rig, senders, handler_s) as target:
                while True:
                    delays.append(await probe(rig, target))
                    if once or perf_counter() > end:
                        break
                    await asyncio.sleep(PAUSE_S)
            await _end_flood(rig, target)
            if perf_counter() > end:
                break
    return max(delays) * 1e3


async def _end_flood(rig: Rig, target: Ref[Flooded]) -> None:
    """Kill the processes of the flood, so that the next has the machine for itself."""
    supervisor = rig.system._supervisor
    assert supervisor is not None
    await supervisor.discard(list(supervisor.slots))


async def _cancelled(rig: Rig, target: Ref[Flooded]) -> float:
    """A running handler: from the cancellation of its ask to its `CancelledError`."""
    await target.ask(Flooded.reset)
    asking = asyncio.ensure_future(target.ask(Flooded.hold_beside))
    async with asyncio.timeout(LIMIT_S):
        while not (await target.ask(Flooded.look))[0]:
            pass
        start = monotonic()
        asking.cancel()
        while not (at := (await target.ask(Flooded.look))[1]):
            pass
    return at - start


async def _taken_out(rig: Rig, target: Ref[Flooded]) -> float:
    """A queued message: from the cancellation of its ask until it is seen to be out; that takes an ask of its own."""
    asking = asyncio.ensure_future(target.ask(Flooded.queued))
    async with asyncio.timeout(LIMIT_S):
        while not asking.done() and not (await target.ask(Flooded.look))[2]:
            pass
        if asking.done():  # the mailbox was empty just then
            return 0.0
        start = monotonic()
        asking.cancel()
        while (await target.ask(Flooded.look))[2]:
            pass
    return monotonic() - start


async def _stopped(rig: Rig, target: Ref[Flooded]) -> float:
    """From the supervisor's word to ``on_stop``."""
    system = rig.system
    assert system._supervisor is not None
    running = system._supervisor.slot(target.name).running
    assert running is not None
    start = time.monotonic()
    await running.stop_actor(control.StopActor(target.name, StopReason.COMMANDED.value, 5.0), LIMIT_S)
    (text,) = [
        announcement.text for announcement in system.announcements if announcement.actor == target.name
    ]
    return float(text) - start


async def _answered(rig: Rig, target: Ref[Flooded]) -> float:
    """From the supervisor's question for the counters, as ``callboard ps`` asks it, to the answer.

    It takes the way of a heartbeat, and some more work at its end.
    """
    system = rig.system
    assert system._supervisor is not None
    running = system._supervisor.slot(target.name).running
    assert running is not None
    start = monotonic()
    if not await running.statistics(LIMIT_S):
        raise RuntimeError(f"{target.name} did not answer within {LIMIT_S:g} s")
    return monotonic() - start


@case("flood_cancel", "ms", Better.LOWER, "worst delay of CancelledError in a handler whose actor is flooded")
async def flood_cancel(rig: Rig, seconds: float) -> float:
    """One process floods."""
    return await _worst(rig, seconds, 1, _cancelled)


@case("flood_cancel_3", "ms", Better.LOWER, "the same, flooded by three processes")
async def flood_cancel_3(rig: Rig, seconds: float) -> float:
    """Three processes flood."""
    return await _worst(rig, seconds, SEVERAL, _cancelled)


@case("flood_unqueue", "ms", Better.LOWER, "worst delay until a queued ask is out of a flooded mailbox")
async def flood_unqueue(rig: Rig, seconds: float) -> float:
    """One process floods."""
    return await _worst(rig, seconds, 1, _taken_out)


@case("flood_stop", "ms", Better.LOWER, "worst delay from a commanded stop to on_stop of a flooded actor")
async def flood_stop(rig: Rig, seconds: float) -> float:
    """One process floods."""
    return await _worst(rig, seconds, 1, _stopped, once=True)


@case("flood_stop_3", "ms", Better.LOWER, "the same, flooded by three processes")
async def flood_stop_3(rig: Rig, seconds: float) -> float:
    """Three processes flood."""
    return await _worst(rig, seconds, SEVERAL, _stopped, once=True)


@case("flood_health", "ms", Better.LOWER, "worst delay of a heartbeat of a process with a flooded actor")
async def flood_health(rig: Rig, seconds: float) -> float:
    """One process floods."""
    return await _worst(rig, seconds, 1, _answered)


@case("flood_health_3", "ms", Better.LOWER, "the same, flooded by three processes")
async def flood_health_3(rig: Rig, seconds: float) -> float:
    """Three processes flood."""
    return await _worst(rig, seconds, SEVERAL, _answered)
