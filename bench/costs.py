"""What each feature costs per message: nanoseconds of the one thread in which both sides run.

Two nodes in one process, on the memory plane: no system calls and no second core, so that a difference of a few dozen
nanoseconds is seen. Each feature is measured in turns with and without it, and the fastest of many short rounds counts:
what disturbs a round only makes it slower.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import thread_time
from typing import Any

from callboard.actors.actor import Actor
from callboard.actors.hooks import HOOKS, Headers, install_hooks
from callboard.actors.node import Node
from callboard.actors.policy import MailboxPolicy
from callboard.actors.ref import Ref

from .payloads import MESSAGES
from .rig import settings_for

IN_FLIGHT = 64
ROUND = 2048
SMALL_WINDOW = 64
LARGE_WINDOW = 1024


@dataclass(slots=True)
class Order:
    """The fields of a message of the benchmarks, with their types."""

    id: int
    op: str
    user: str
    items: list[int]
    note: str


class Typed(Actor):
    """Takes the same fields in several ways."""

    async def untyped(self, message):  # type: ignore[no-untyped-def]
        """Take whatever comes."""

    async def plain(self, message: dict[str, Any]) -> None:
        """Take a dict, which is looked at no further."""

    async def checked(self, id: int, op: str, user: str, items: list[int], note: str) -> None:
        """Take each field as an argument of its own, with its type."""

    async def record(self, message: Order) -> None:
        """Take a dataclass."""

    async def ever(self) -> None:
        """Never return."""
        await asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the table; times in nanoseconds per message."""

    feature: str
    without: str
    without_ns: float
    used: str
    used_ns: float

    @property
    def share(self) -> float:
        """What the feature adds, as a share of the message without it."""
        return self.used_ns / self.without_ns - 1


Round = Callable[[], Awaitable[int]]
"""Sends messages, and returns how many when all of them are handled."""


class _Counter:
    def __init__(self) -> None:
        self.handled_s = 0.0

    def handled(self, actor: str, method: str, seconds: float, error: BaseException | None) -> None:
        """Add up the time."""
        self.handled_s += seconds


class _Tracer:
    def __init__(self) -> None:
        self.headers: Headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}

    def sending(self, target: str, method: str) -> Headers:
        """Send the same trace each time."""
        return self.headers

    @contextmanager
    def handling(self, actor: str, method: str, headers: Headers) -> Iterator[None]:
        """Do nothing around the handler."""
        yield


async def measure(rounds: int) -> list[Cost]:
    """Return the table, of the fastest of ``rounds`` rounds each (about 10 ms each)."""
    settings = settings_for("memory")
    near, far = Node(name="near", settings=settings), Node(name="far", settings=settings)
    await near.start()
    await far.start()
    try:
        refs = {
            name: await _spawn(near, far, name, MailboxPolicy(messages=window))
            for name, window in (("large", LARGE_WINDOW), ("small", SMALL_WINDOW))
        }
        return await _table(refs["large"], refs["small"], rounds)
    finally:
        install_hooks()
        await near.close(grace_s=0)
        await far.close(grace_s=0)


async def _spawn(near: Node, far: Node, name: str, mailbox: MailboxPolicy) -> Ref[Typed]:
    await far.spawn(Typed, name=name, mailbox=mailbox)
    location = far.location(name)
    assert location is not None
    near.add_location(location)
    return near.ref(name, Typed).options(deadline_s=math.inf)


async def _table(large: Ref[Typed], small: Ref[Typed], rounds: int) -> list[Cost]:
    asks: dict[str, Round] = {
        "ask": lambda: _ask(large, Typed.plain, _whole),
        "deadline": lambda: _ask(large.options(deadline_s=30), Typed.plain, _whole),
        "cancelled": lambda: _cancel(large),
        "metrics": _hooked(lambda: _ask(large, Typed.plain, _whole), metrics=_Counter()),
        "tracing": _hooked(lambda: _ask(large, Typed.plain, _whole), tracing=_Tracer()),
        "untyped": lambda: _ask(large, Typed.untyped, _whole),
        "checked": lambda: _ask(large, Typed.checked, _fields),
        "record": lambda: _ask(large, Typed.record, _records),
        "tell": lambda: _tell(large),
        "tell, small": lambda: _tell(small),
    }
    ns = dict.fromkeys(asks, math.inf)
    for _ in range(rounds):
        for name, one in asks.items():
            start = thread_time()
            count = await one()
            ns[name] = min(ns[name], (thread_time() - start) / count * 1e9)
    # Credit comes back half a window at a time: from two windows follows what one message of credit costs.
    per_credit = (ns["tell, small"] - ns["tell"]) / (2 / SMALL_WINDOW - 2 / LARGE_WINDOW)
    credit = per_credit * 2 / LARGE_WINDOW
    return [
        Cost("deadline", "ask, none", ns["ask"], "ask, 30 s", ns["deadline"]),
        Cost("cancel", "ask, answered", ns["ask"], "ask, cancelled while it runs", ns["cancelled"]),
        Cost(
            "credit",
            "tell, its credit not counted",
            ns["tell"] - credit,
            f"tell, window of {LARGE_WINDOW}",
            ns["tell"],
        ),
        Cost("metrics hook", "ask, none", ns["ask"], "ask, one that adds up", ns["metrics"]),
        Cost("tracing hook", "ask, none", ns["ask"], "ask, traceparent both ways", ns["tracing"]),
        Cost(
            "typed arguments", "ask, no annotation", ns["untyped"], "ask, five typed arguments", ns["checked"]
        ),
        Cost(
            "typed record",
            "ask, no annotation",
            ns["untyped"],
            "ask, a dataclass of five fields",
            ns["record"],
        ),
    ]


def table(costs: list[Cost], look: float) -> str:
    """Return the table in Markdown."""
    head = "| feature | without, us | with, us | adds |\n|---|---|---|---|\n"
    lines = (
        f"| {cost.feature} | {cost.without}: {cost.without_ns / 1000:.2f} | {cost.used}: {cost.used_ns / 1000:.2f} "
        f"| {cost.used_ns - cost.without_ns:+,.0f} ns, {cost.share:+.1%} |\n"
        for cost in costs
    )
    off = f"| a hook, not installed | | one look where it is sent, one where it is handled | {2 * look:+,.0f} ns |\n"
    return head + "".join(lines) + off


def look_ns() -> float:
    """Return what a hook costs that is not installed: one look, in nanoseconds."""
    times = []
    for _ in range(50):
        start = thread_time()
        for _ in range(1000):
            if HOOKS.on:
                raise RuntimeError("a hook is installed")
        middle = thread_time()
        for _ in range(1000):
            pass
        times.append((middle - start) - (thread_time() - middle))
    return min(times) * 1e6


def _hooked(one: Round, **hooks: Any) -> Round:
    async def run() -> int:
        install_hooks(**hooks)
        try:
            return await one()
        finally:
            install_hooks()

    return run


Arguments = Callable[[int], tuple[Any, ...]]

_RECORDS = [Order(**message) for message in MESSAGES[:ROUND]]


def _whole(number: int) -> tuple[Any, ...]:
    return (MESSAGES[number],)


def _fields(number: int) -> tuple[Any, ...]:
    return tuple(MESSAGES[number].values())


def _records(number: int) -> tuple[Any, ...]:
    return (_RECORDS[number],)


async def _ask(ref: Ref[Typed], method: Any, arguments: Arguments) -> int:
    async def asker(first: int) -> None:
        for number in range(first, ROUND, IN_FLIGHT):
            await ref.ask(method, *arguments(number))

    await asyncio.gather(*map(asker, range(IN_FLIGHT)))
    return ROUND


async def _tell(ref: Ref[Typed]) -> int:
    """The ask after every few tells is there for both windows: no message ever waits for credit."""
    few = SMALL_WINDOW // 2 - 1
    for first in range(0, ROUND, few + 1):
        for message in MESSAGES[first : first + few]:
            ref.tell(Typed.plain, message)
        await ref.ask(Typed.plain, MESSAGES[0])
    return ROUND


async def _cancel(ref: Ref[Typed]) -> int:
    for _ in range(ROUND // 8):
        ask = asyncio.ensure_future(ref.ask(Typed.ever))
        for _ in range(4):  # until it runs there
            await asyncio.sleep(0)
        ask.cancel()
        await asyncio.wait((ask,))
    await ref.ask(Typed.plain, MESSAGES[0])
    return ROUND // 8
