"""Waiting for a condition, with a limit that only a broken program reaches."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

import psutil

from callboard.testing.leaks import SPARED_PROCESSES

LIMIT_S = 30.0


async def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Return when ``condition()`` (or what it awaits) is true; raises `TimeoutError` at the limit."""
    async with asyncio.timeout(limit_s):
        while True:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.005)


def children() -> list[psutil.Process]:
    """Every process below this one but the nats-server of the test run, which other tests may have started."""
    return [p for p in psutil.Process().children(recursive=True) if p.pid not in SPARED_PROCESSES]


def nats_servers(pid: int) -> list[psutil.Process]:
    """The nats-servers that a process has started, without the one that other tests share."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        if child.pid in SPARED_PROCESSES:
            continue
        try:
            if child.name() == "nats-server":
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found
