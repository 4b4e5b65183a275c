"""Ray: the driver's process, and one process per actor. Blocking calls, which are its fastest."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_AUTH_MODE": "disabled",  # else it writes a token into the home directory
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else it takes an address of the host instead of 127.0.0.1
}

import ray

from ..measuring import ASK, STREAM, STREAM_ITEMS, WARM_UP, Skipped, Values, latencies, pss_bytes
from ..payloads import MB, MESSAGES
from .driving import drive

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 1_000_000_000


class Echo:
    """As `callboard.bench.actors.Echo`; the synchronous actor is twice as fast as the asynchronous one."""

    def __init__(self) -> None:
        self.told = 0

    def echo(self, message: Any) -> Any:
        """Return the message."""
        return message

    def note(self, message: Any) -> None:
        """Count a tell."""
        self.told += 1

    def count(self) -> int:
        """How many were told."""
        return self.told

    def pid(self) -> int:
        """The process it runs in."""
        return os.getpid()


class Source:
    """As `callboard.bench.actors.Source`."""

    async def items(self, count: int) -> AsyncIterator[dict[str, Any]]:
        """Yield ``count`` items."""
        for index in range(count):
            yield {"i": index, "token": "hello", "done": False, "score": 0.5}


def measured(what: str, seconds: float, transport: str) -> Values:
    """One measurement in a Ray of its own."""
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address=LOOPBACK,
        _temp_dir=tempfile.gettempdir(),
    )
    try:
        if ray.util.get_node_ip_address() != LOOPBACK:
            raise Skipped("it does not stay on the loopback interface")
        return _measured(what, seconds)
    finally:
        ray.shutdown()


def _measured(what: str, seconds: float) -> Values:
    if match := STREAM.fullmatch(what):
        return {what: (_streams(int(match[1]), seconds), "items/s")}
    echo = ray.remote(num_cpus=0)(Echo).remote()
    for message in MESSAGES[:WARM_UP]:
        ray.get(echo.echo.remote(message))
    if what == "ask_seq":
        return latencies(_one_at_a_time(echo, seconds))
    if match := ASK.fullmatch(what):
        _in_flight(echo, int(match[1]), seconds / 5)
        return {what: (_in_flight(echo, int(match[1]), seconds), "1/s")}
    if what == "tell":
        _tells(echo, seconds / 5)
        return {what: (_tells(echo, seconds), "1/s")}
    if what in ("echo_1mb", "echo_64mb"):
        return {what: (_big(echo, seconds, MB if what == "echo_1mb" else 64 * MB), "MB/s")}
    if what == "idle_node":
        return {what: (pss_bytes(ray.get(echo.pid.remote())) / 2**20, "MiB")}
    raise Skipped("it is not measured")


def _one_at_a_time(echo: Any, seconds: float) -> list[float]:
    times: list[float] = []
    end = perf_counter() + seconds
    while (start := perf_counter()) < end:
        ray.get(echo.echo.remote(MESSAGES[len(times) & 4095]))
        times.append(perf_counter() - start)
    return times


def _in_flight(echo: Any, width: int, seconds: float) -> float:
    waiting: deque[Any] = deque()
    count, start = 0, perf_counter()
    while perf_counter() < start + seconds:
        if len(waiting) >= width:
            ray.get(waiting.popleft())
        waiting.append(echo.echo.remote(MESSAGES[count & 4095]))
        count += 1
    while waiting:
        ray.get(waiting.popleft())
    return count / (perf_counter() - start)


def _tells(echo: Any, seconds: float) -> float:
    before = ray.get(echo.count.remote())
    note = echo.note.options(num_returns=0)
    sent, start = 0, perf_counter()
    while perf_counter() < start + seconds:
        note.remote(MESSAGES[sent & 4095])
        sent += 1
    handled = ray.get(echo.count.remote()) - before
    if handled != sent:
        raise RuntimeError(f"{sent} told, {handled} handled")
    return float(handled / (perf_counter() - start))


def _big(echo: Any, seconds: float, size: int) -> float:
    data = bytes(range(256)) * (size // 256)
    ray.get(echo.echo.remote(data))
    count, start = 0, perf_counter()
    while perf_counter() < start + seconds:
        if len(ray.get(echo.echo.remote(data))) != len(data):
            raise RuntimeError("what came back is not what was sent")
        count += 1
    return count * len(data) / MB / (perf_counter() - start)


def _streams(width: int, seconds: float) -> float:
    source = ray.remote(num_cpus=0, max_concurrency=max(64, width))(Source).remote()
    items = source.items.options(num_returns="streaming")
    totals: list[int] = []

    def reader(end: float) -> None:
        while perf_counter() < end:
            count = sum(1 for item in items.remote(STREAM_ITEMS) if ray.get(item) is not None)
            if count != STREAM_ITEMS:
                raise RuntimeError(f"{STREAM_ITEMS} items were asked for, {count} came")
            totals.append(count)

    for length in (seconds / 5, seconds):
        totals.clear()
        start = perf_counter()
        threads = [threading.Thread(target=reader, args=(start + length,)) for _ in range(width)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = perf_counter() - start
    return sum(totals) / took


if __name__ == "__main__":
    drive(measured)
