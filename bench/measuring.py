"""How a runtime is measured, callboard and its peers alike: each measurement for about the seconds that it is given.

Standard library only: the drivers of the peers run it in their interpreters.
"""

from __future__ import annotations

import asyncio
import re
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any

from .payloads import MB, MESSAGES

WARM_UP = 300
STREAM_ITEMS = 1000
PIPELINE_ITEMS = 100
ASK = re.compile(r"ask_(\d+)")
STREAM = re.compile(r"stream_(\d+)")
ECHO = re.compile(r"echo_(\d+)mb(_bytes)?")

Values = dict[str, tuple[float, str]]
"""Case, value and unit."""


class Skipped(Exception):
    """What a runtime cannot do, or not here; the text says why."""


class Client:
    """A runtime, as the measurements use it. What is not overridden it cannot do."""

    def ask(self, message: dict[str, Any]) -> Awaitable[Any]:
        """Send a message; what comes back is equal to it."""
        raise Skipped("it has no ask")

    def view(self, data: bytes) -> Any:
        """Return ``data`` as `big` shall get it, where bytes are not what one would send."""
        return data

    def big(self, data: Any) -> Awaitable[Any]:
        """Send a buffer; it comes back."""
        raise Skipped("it has no large messages")

    async def tell_for(self, seconds: float) -> int:
        """Tell as fast as it goes, and return how many."""
        raise Skipped("it has no messages without an answer")

    async def told(self) -> int:
        """How many tells were handled, when all were that were sent before."""
        raise Skipped("it has no messages without an answer")

    def stream(self, count: int) -> AsyncIterator[Any]:
        """Yield ``count`` items."""
        raise Skipped("it has no streams")

    def pipeline(self, count: int) -> AsyncIterator[Any]:
        """Yield ``count`` items that a router passes on."""
        raise Skipped("it has no streams through a router here")

    async def server_pid(self) -> int:
        """The process that answers."""
        raise Skipped("its memory is not measured")


def percentile(values: list[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def latencies(times_s: list[float]) -> Values:
    """Percentiles of the round trips of one who asks alone."""
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
    return {f"ask_seq_{name}": (percentile(times_s, share) * 1e6, "us") for name, share in shares.items()}


async def measure(client: Client, what: str, seconds: float) -> Values:
    """Measure one thing. Raises `Skipped`."""
    if what == "ask_seq":
        return latencies(await _one_at_a_time(client, seconds))
    if match := ASK.fullmatch(what):
        return {what: (await _in_flight(client, int(match[1]), seconds), "1/s")}
    if match := STREAM.fullmatch(what):
        rate, _ = await readers(client.stream, seconds, int(match[1]), STREAM_ITEMS)
        return {what: (rate, "items/s")}
    if what == "pipeline":
        rate, first = await readers(client.pipeline, seconds, 32, PIPELINE_ITEMS)
        return {"pipeline_32": (rate, "items/s"), "first_item": (statistics.median(first) * 1e6, "us")}
    if what == "tell":
        return {what: (await _tells(client, seconds), "1/s")}
    if match := ECHO.fullmatch(what):
        return {what: (await _echo(client, seconds, int(match[1]) * MB, views=not match[2]), "MB/s")}
    if what == "idle_node":
        return {what: (pss_bytes(await client.server_pid()) / 2**20, "MiB")}
    raise Skipped("it is not measured")


async def _one_at_a_time(client: Client, seconds: float) -> list[float]:
    for message in MESSAGES[:WARM_UP]:
        await client.ask(message)
    times: list[float] = []
    end = perf_counter() + seconds
    while not times or perf_counter() < end:
        start = perf_counter()
        await client.ask(MESSAGES[len(times) & 4095])
        times.append(perf_counter() - start)
    return times


async def _in_flight(client: Client, width: int, seconds: float) -> float:
    async def asker(first: int, end: float) -> int:
        number = first
        while True:  # once at least: a stall as long as the measurement is not a rate of nothing
            await client.ask(MESSAGES[number & 4095])
            number += 1
            if perf_counter() >= end:
                return number - first

    await asyncio.gather(*(asker(n * 16, perf_counter() + seconds / 5) for n in range(width)))
    start = perf_counter()
    counts = await asyncio.gather(*(asker(n * 16, start + seconds) for n in range(width)))
    return sum(counts) / (perf_counter() - start)


async def readers(
    stream: Callable[[int], AsyncIterator[Any]], seconds: float, width: int, items: int
) -> tuple[float, list[float]]:
    """Items per second of ``width`` readers, and the seconds to each stream's first item."""
    first_items: list[float] = []

    async def reader(end: float) -> int:
        total = 0
        while True:
            start, count = perf_counter(), 0
            async for _ in stream(items):
                if not count:
                    first_items.append(perf_counter() - start)
                count += 1
            if count != items:
                raise RuntimeError(f"{items} items were asked for, {count} came")
            total += count
            if perf_counter() > end:
                return total

    await asyncio.gather(*(reader(perf_counter() + seconds / 5) for _ in range(width)))
    first_items.clear()
    start = perf_counter()
    totals = await asyncio.gather(*(reader(start + seconds) for _ in range(width)))
    return sum(totals) / (perf_counter() - start), first_items


async def _tells(client: Client, seconds: float) -> float:
    await client.tell_for(seconds / 5)
    before = await client.told()
    start = perf_counter()
    sent = await client.tell_for(seconds)
    handled = await client.told() - before
    took = perf_counter() - start
    if handled != sent:
        raise RuntimeError(f"{sent} told, {handled} handled")
    return handled / took


async def _echo(client: Client, seconds: float, size: int, *, views: bool) -> float:
    whole = bytes(range(256)) * (size // 256)
    data = client.view(whole) if views else whole
    for _ in range(3):
        if await client.big(data) != data:
            raise RuntimeError("what came back is not what was sent")
    count, start = 0, perf_counter()
    while perf_counter() < start + seconds:
        if len(await client.big(data)) != len(data):
            raise RuntimeError("what came back is not what was sent")
        count += 1
    return count * len(data) / MB / (perf_counter() - start)


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
