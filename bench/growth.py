"""What a message costs as the work grows: more actors, processes, waiting messages, streams.

The cost is CPU time of all processes that take part, in microseconds per message: it is steadier than the rate. It
is flat if nothing on the way looks at all that there is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

import psutil

from callboard.actors.policy import MailboxPolicy
from callboard.actors.ref import Ref
from callboard.transports.errors import CallboardError

from .actors import Echo, Held, Source
from .lines import OWN, Line
from .measuring import Skipped
from .payloads import MESSAGES
from .rig import Rig

IN_FLIGHT = 256
LONGEST_WAIT_S = 60.0
LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve: CPU microseconds per message, and messages per second."""

    cpu_us: float
    per_s: float


Measure = Callable[[Rig, float, int], Awaitable[Point]]


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve: where it is measured, and what grows along it."""

    name: str
    axis: str
    unit: str
    points: tuple[int, ...]
    measure: Measure


CURVES: dict[str, Curve] = {}


def curve(name: str, axis: str, unit: str, *points: int) -> Callable[[Measure], Measure]:
    """Enter a curve into the table."""

    def enter(measure: Measure) -> Measure:
        CURVES[name] = Curve(name, axis, unit, points, measure)
        return measure

    return enter


class Meter:
    """CPU seconds of this process and some others since it was made."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._others = [psutil.Process(pid) for pid in pids]
        self._start, self._start_s = self._cpu_s(), perf_counter()

    def __repr__(self) -> str:
        return f"<Meter of {len(self._others) + 1} processes>"

    def _cpu_s(self) -> float:
        times = [process.cpu_times() for process in self._others]
        return process_time() + sum(one.user + one.system for one in times)

    def point(self, messages: int) -> Point:
        """What each of so many messages has cost since."""
        cpu_s, took_s = self._cpu_s() - self._start, perf_counter() - self._start_s
        return Point(cpu_s / messages * 1e6, messages / took_s)


async def _asks(targets: Sequence[Ref[Echo]], pids: Iterable[int], seconds: float) -> Point:
    """256 in flight, spread over the targets, each of which was asked once before."""

    async def asker(number: int, end: float) -> int:
        count = 0
        while perf_counter() < end:
            target = targets[number % len(targets)]
            await target.ask(Echo.echo, MESSAGES[number & 4095])
            number += IN_FLIGHT + 1  # no common factor with the number of targets: each gets its share
            count += 1
        return count

    for first in range(0, len(targets), IN_FLIGHT):
        await asyncio.gather(*(one.ask(Echo.count) for one in targets[first : first + IN_FLIGHT]))
    await asyncio.gather(*(asker(number, perf_counter() + seconds / 5) for number in range(IN_FLIGHT)))
    meter, end = Meter(pids), perf_counter() + seconds
    return meter.point(sum(await asyncio.gather(*(asker(number, end) for number in range(IN_FLIGHT)))))


async def _spread(rig: Rig, replicas: int, processes: int) -> tuple[list[Ref[Echo]], list[int]]:
    component = await rig.spawn(Echo, replicas=replicas, processes=processes)
    targets = list(component.instances())
    one_each = targets[:: replicas // processes]
    return targets, list({await one.ask(Echo.pid) for one in one_each})


@curve("actors", "actors in one process", "1/s", 1, 10, 100, 1000, 10_000)
async def actors(rig: Rig, seconds: float, count: int) -> Point:
    """Asks go to all of them in turn."""
    rig.system  # noqa: B018 (skips on the memory plane)
    return await _asks(*await _spread(rig, count, 1), seconds)


@curve("processes", "processes with one actor each", "1/s", 1, 2, 4, 8, 16, 32)
async def processes(rig: Rig, seconds: float, count: int) -> Point:
    """Asks go to all of them in turn."""
    rig.system  # noqa: B018 (skips on the memory plane)
    return await _asks(*await _spread(rig, count, count), seconds)


@curve("queued", "messages waiting in one mailbox", "1/s", 64, 256, 1024, 4096, 16_384, 65_536)
async def queued(rig: Rig, seconds: float, depth: int) -> Point:
    """Tells of its own process pile up behind a message that waits, for another process may have 1024 there at most."""
    rig.system  # noqa: B018 (skips on the memory plane)
    held = await rig.spawn(Held, mailbox=MailboxPolicy(messages=depth + 16))
    pid = await held.ask(Held.pid)
    took_s, messages = 0.0, 0
    meter, end = Meter([pid]), perf_counter() + seconds
    while not messages or perf_counter() < end:
        held.tell(Held.hold)
        await held.ask(Held.fill, depth)
        start = perf_counter()
        await held.ask(Held.release)
        if await held.ask(Held.handled) != depth:
            raise RuntimeError(f"not all of {depth} messages were handled")
        took_s += perf_counter() - start
        messages += depth
    return Point(meter.point(messages).cpu_us, messages / took_s)


@curve("streams", "streams at a time", "items/s", 1, 10, 100, 1000)
async def streams(rig: Rig, seconds: float, count: int) -> Point:
    """All from one actor; each has been read from before it is measured."""
    rig.system  # noqa: B018 (skips on the memory plane)
    source = await rig.spawn(Source)
    pid = await source.ask(Source.pid)
    totals = [0] * count

    async def reader(number: int) -> None:
        while True:
            async for _ in source.stream(Source.items, 1000):
                totals[number] += 1

    tasks = [asyncio.ensure_future(reader(number)) for number in range(count)]
    try:
        end = time.monotonic() + LONGEST_WAIT_S
        while not all(totals):
            if time.monotonic() > end:
                raise RuntimeError(
                    f"{totals.count(0)} of {count} streams had no item in {LONGEST_WAIT_S:g} s"
                )
            await asyncio.sleep(LOOK_S)
        meter, before = Meter([pid]), sum(totals)
        await asyncio.sleep(seconds)
        return meter.point(sum(totals) - before)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def measure(names: Iterable[str], plane: str, seconds: float, reps: int) -> AsyncIterator[Line]:
    """Yield two lines for each point of each curve: its cost and its rate."""
    for name in names:
        one = CURVES[name]
        for at in one.points:
            try:
                points = []
                for _ in range(reps):
                    async with Rig(plane) as rig:
                        points.append(await one.measure(rig, seconds, at))
            except (Skipped, CallboardError, RuntimeError) as why:
                text = str(why) if isinstance(why, Skipped) else f"failed: {why}"
                yield Line(peer=OWN, plane=plane, case=f"{name}_cpu", unit="us", at=at, skipped=text)
            else:
                costs, rates = [point.cpu_us for point in points], [point.per_s for point in points]
                yield Line.of(OWN, plane, f"{name}_cpu", "us", costs, at)
                yield Line.of(OWN, plane, f"{name}_rate", one.unit, rates, at)
