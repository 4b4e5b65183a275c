"""What is measured. Each case measures once, for about the seconds that it is given, and returns one value."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from time import perf_counter

import psutil

from callboard.actors.errors import ActorError, ActorUnavailable
from callboard.actors.policy import OnDown
from callboard.supervisor.system import System

from .actors import Echo, Idle
from .client import CallboardClient
from .floor import round_trips
from .http_load import events_per_second
from .measuring import Skipped, Values, measure
from .payloads import MB, MESSAGES
from .rig import Rig

IDLE_ACTORS = 2000
SPAWNED_ACTORS = 200
IMPORT = "from time import perf_counter as now; start = now(); import callboard; print(now() - start)"


class Better(Enum):
    """Which direction is good."""

    LOWER = "lower"
    HIGHER = "higher"


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table."""

    name: str
    unit: str
    better: Better
    what: str
    measure: Callable[[Rig, float], Awaitable[float]]


CASES: dict[str, Case] = {}

Measure = Callable[[Rig, float], Awaitable[float]]


def case(name: str, unit: str, better: Better, what: str) -> Callable[[Measure], Measure]:
    """Enter a case into the table."""

    def enter(measure: Measure) -> Measure:
        CASES[name] = Case(name, unit, better, what, measure)
        return measure

    return enter


async def measured(rig: Rig, what: str, seconds: float) -> Values:
    """Measure callboard as its peers are measured, see `callboard.bench.measuring`. Raises `Skipped`."""
    if what.startswith("echo_64mb") and rig.settings.max_message_bytes < 64 * MB:
        raise Skipped(f"64 MB is above the message limit of {rig.settings.max_message_bytes:,} bytes")
    return await measure(await CallboardClient.of(rig, what), what, seconds)


async def _one(rig: Rig, what: str, seconds: float, name: str = "") -> float:
    value, _ = (await measured(rig, what, seconds))[name or what]
    return value


# -- one at a time


@case("floor_zmq", "us", Better.LOWER, "blocking round trip between two DEALER sockets, median")
async def floor_zmq(rig: Rig, seconds: float) -> float:
    """The yardstick of the run, see `callboard.bench.floor`."""
    if rig.plane not in ("tcp", "ipc"):
        raise Skipped("the floor is that of zmq")
    return statistics.median(await asyncio.to_thread(round_trips, rig.plane, seconds)) * 1e6


@case("ask_seq_p50", "us", Better.LOWER, "ask, one at a time, median")
async def ask_seq_p50(rig: Rig, seconds: float) -> float:
    """The client does nothing else."""
    return await _one(rig, "ask_seq", seconds, "ask_seq_p50")


@case("ask_seq_p99", "us", Better.LOWER, "ask, one at a time, 99th percentile")
async def ask_seq_p99(rig: Rig, seconds: float) -> float:
    """The client does nothing else."""
    return await _one(rig, "ask_seq", seconds, "ask_seq_p99")


# -- many at a time


@case("ask_64", "1/s", Better.HIGHER, "ask, 64 in flight")
async def ask_64(rig: Rig, seconds: float) -> float:
    """64 clients, each waits for its answer before it asks again."""
    return await _one(rig, "ask_64", seconds)


@case("ask_256", "1/s", Better.HIGHER, "ask, 256 in flight")
async def ask_256(rig: Rig, seconds: float) -> float:
    """256 clients, each waits for its answer before it asks again."""
    return await _one(rig, "ask_256", seconds)


@case("tell", "1/s", Better.HIGHER, "tell, counted when handled")
async def tell(rig: Rig, seconds: float) -> float:
    """Until the actor says that it has handled every one."""
    return await _one(rig, "tell", seconds)


# -- streams


@case("stream_1", "items/s", Better.HIGHER, "one stream of 1000 items after the other")
async def stream_1(rig: Rig, seconds: float) -> float:
    """One reader."""
    return await _one(rig, "stream_1", seconds)


@case("stream_32", "items/s", Better.HIGHER, "32 readers of streams of 1000 items")
async def stream_32(rig: Rig, seconds: float) -> float:
    """32 readers in one process."""
    return await _one(rig, "stream_32", seconds)


@case("pipeline_32", "items/s", Better.HIGHER, "client, router, worker: 32 streams of 100 items")
async def pipeline_32(rig: Rig, seconds: float) -> float:
    """Three processes; each item crosses two links."""
    return await _one(rig, "pipeline", seconds, "pipeline_32")


@case("first_item", "us", Better.LOWER, "to the first item in pipeline_32, median")
async def first_item(rig: Rig, seconds: float) -> float:
    """Under the load of the other 31 streams."""
    return await _one(rig, "pipeline", seconds, "first_item")


# -- large payloads


@case(
    "echo_1mb", "MB/s", Better.HIGHER, "1 MB there and back as a view, one at a time; payload over round trip"
)
async def echo_1mb(rig: Rig, seconds: float) -> float:
    """What is sent could change, as an array could; the wire carries twice as much."""
    return await _one(rig, "echo_1mb", seconds)


@case(
    "echo_64mb",
    "MB/s",
    Better.HIGHER,
    "64 MB there and back as views, one at a time; payload over round trip",
)
async def echo_64mb(rig: Rig, seconds: float) -> float:
    """Above the default message limit, which the rig raises."""
    return await _one(rig, "echo_64mb", seconds)


@case("echo_1mb_bytes", "MB/s", Better.HIGHER, "the same as bytes, which the receiver copies")
async def echo_1mb_bytes(rig: Rig, seconds: float) -> float:
    """Each side makes a new object of what it gets."""
    return await _one(rig, "echo_1mb_bytes", seconds)


@case("echo_64mb_bytes", "MB/s", Better.HIGHER, "the same as bytes, which the receiver copies")
async def echo_64mb_bytes(rig: Rig, seconds: float) -> float:
    """Above the default message limit, which the rig raises."""
    return await _one(rig, "echo_64mb_bytes", seconds)


# -- life and death


@case("spawn", "1/s", Better.HIGHER, f"{SPAWNED_ACTORS} actors in one new process, until each has answered")
async def spawn(rig: Rig, seconds: float) -> float:
    """The start of the process is not counted: one actor of it is there before."""
    system = rig.system
    start = perf_counter()
    idle = await system.spawn(Idle, name=f"spawned-{time.monotonic_ns()}", replicas=SPAWNED_ACTORS)
    await asyncio.gather(*(one.ask(Idle.ready) for one in idle.instances()))
    return SPAWNED_ACTORS / (perf_counter() - start)


@case("idle_node", "MiB", Better.LOWER, "memory of a process with one idle actor (proportional set size)")
async def idle_node(rig: Rig, seconds: float) -> float:
    """What a process of the system costs."""
    rig.system  # noqa: B018 (skips on the memory plane)
    return await _one(rig, "idle_node", seconds)


@case("idle_actor", "KiB", Better.LOWER, f"memory of one of {IDLE_ACTORS} idle actors in a process")
async def idle_actor(rig: Rig, seconds: float) -> float:
    """Unique memory of the process with them, less that of one without."""
    system = rig.system
    small = await rig.spawn(Echo)
    many = await system.spawn(Idle, name=f"idle-{time.monotonic_ns()}", replicas=IDLE_ACTORS)
    await many.ask(Idle.ready)
    name = many.instance(0).name
    large = psutil.Process(system.status().process(name).pid).memory_full_info().uss
    base = psutil.Process(await small.ask(Echo.pid)).memory_full_info().uss
    return float(large - base) / 1024 / IDLE_ACTORS


@case(
    "failover",
    "ms",
    Better.LOWER,
    "kill -9 of one of two workers, 64 in flight: until the last ask has failed",
)
async def failover(rig: Rig, seconds: float) -> float:
    """Asks without retries; those on the other worker go on, and none may hang."""
    system = rig.system
    victims = (await rig.spawn(Echo, replicas=2, processes=2)).options(retries=0)
    failures: list[float] = []
    end = perf_counter() + seconds

    async def asker(number: int) -> None:
        one = victims.instance(number % 2)
        while perf_counter() < end:
            try:
                await one.ask(Echo.echo, MESSAGES[number])
            except ActorError:
                failures.append(perf_counter())
                return

    askers = [asyncio.ensure_future(asker(number)) for number in range(64)]
    await asyncio.sleep(seconds / 2)
    status = system.status().process(victims.instance(0).name)
    start = perf_counter()
    psutil.Process(status.pid).kill()
    await asyncio.wait(askers)
    if len(failures) != 32:
        raise RuntimeError(f"32 asks should have failed, {len(failures)} did")
    return (max(failures) - start) * 1e3


@case("recovery", "ms", Better.LOWER, "kill -9 of the only worker: until its successor answers")
async def recovery(rig: Rig, seconds: float) -> float:
    """With the default backoff of 100 ms and a reference that waits."""
    system = rig.system
    worker = (await rig.spawn(Echo)).options(on_down=OnDown.WAIT)
    pid = await worker.ask(Echo.pid)
    start = perf_counter()
    psutil.Process(pid).kill()
    while True:
        try:
            if await worker.ask(Echo.pid) != pid:
                break
        except ActorUnavailable:  # it was on its way when the process died
            continue
    if system.status().actor(worker.name + ".0").restarts != 1:
        raise RuntimeError("it was not restarted once")
    return (perf_counter() - start) * 1e3


@case(
    "broker_return",
    "ms",
    Better.LOWER,
    "kill -9 and restart of the nats-server, 64 in flight: from its return to the next answer",
)
async def broker_return(rig: Rig, seconds: float) -> float:
    """Every ask meanwhile must end in a value or an error."""
    broker = rig.broker
    worker = (await rig.spawn(Echo)).options(retries=0)
    answered = perf_counter()
    end = answered + seconds + 60

    async def asker(number: int) -> None:
        nonlocal answered
        while perf_counter() < end:
            try:
                await worker.ask(Echo.echo, MESSAGES[number])
            except ActorError:
                await asyncio.sleep(0.001)
            else:
                answered = perf_counter()

    askers = [asyncio.ensure_future(asker(number)) for number in range(64)]
    await asyncio.sleep(seconds / 2)
    await broker.kill()
    await asyncio.sleep(seconds / 2)
    await broker.start()
    start = perf_counter()
    while answered < start:
        if perf_counter() > end:
            raise RuntimeError("no ask was answered within a minute of the return of the nats-server")
        await asyncio.sleep(0)
    end = perf_counter()
    async with asyncio.timeout(60):
        await asyncio.gather(*askers)
    return (answered - start) * 1e3


@case("startup", "s", Better.LOWER, "a system of three processes, from nothing to the first answer")
async def startup(rig: Rig, seconds: float) -> float:
    """Python is running already; its own start is not counted."""
    rig.system  # noqa: B018 (skips on the memory plane)
    start = perf_counter()
    async with System(settings=rig.settings) as system:
        three = await system.spawn(Echo, replicas=3, processes=3)
        await asyncio.gather(*(one.ask(Echo.count) for one in three.instances()))
        return perf_counter() - start


@case("import", "ms", Better.LOWER, "`import callboard` in a new interpreter")
async def import_(rig: Rig, seconds: float) -> float:
    """What a script pays before it does anything; the start of Python is not counted."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", IMPORT, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    return float(output) * 1e3


@case(
    "http_32",
    "events/s",
    Better.HIGHER,
    "HTTP frontend, router, worker: 32 connections, answers of 100 tokens",
)
async def http_32(rig: Rig, seconds: float) -> float:
    """The serving application with its simulated engine, in processes of their own, without delays."""
    rig.system  # noqa: B018 (skips on the memory plane)
    return await events_per_second(rig, seconds)
