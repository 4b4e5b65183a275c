"""A mixed load: asks, tells, streams, callers that leave, slow handlers, mailboxes that overflow on purpose.

Moderate by design: it is there to meet every way that a message can take while processes die, not to fill a core.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from callboard.actors.errors import ActorError
from callboard.actors.policy import Executed, OnDown
from callboard.actors.ref import Ref

from .ledger import Event, Ledger, Outcome, Verb

log = logging.getLogger("callboard.soak")

DEADLINE_S = 10.0
PATIENT_S = 30.0
MOST_OPEN = 200
BURST = 30
TOLD = {Executed.NEVER: Outcome.NEVER, Executed.MAYBE: Outcome.MAYBE, Executed.YES: Outcome.YES}


class Targets(NamedTuple):
    """Whom the load is put on."""

    workers: Ref[Any]
    """A component whose processes are killed and stopped."""
    width: int
    narrow: Ref[Any]
    """One instance with a small mailbox, killed and stopped, too."""
    steady: Ref[Any]
    """One instance whose process is left alone: it is there to be measured."""


class Load:
    """Sends about ``rate`` messages a second until told to finish, and writes down what its callers are told."""

    def __init__(
        self, targets: Targets, ledger: Ledger, *, number: int, incarnation: int, seed: int, rate: float
    ) -> None:
        self._ledger = ledger
        self._rng = random.Random(f"{seed} {number} {incarnation}")
        self._next = number << 56 | incarnation << 40
        self._pause_s = 1 / rate
        self._orders: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        workers = targets.workers.options(deadline_s=DEADLINE_S)
        self._workers = workers
        self._patient = workers.options(deadline_s=PATIENT_S, on_down=OnDown.WAIT, retries=8)
        single = [workers.instance(index) for index in range(targets.width)]
        self._steady = targets.steady.options(deadline_s=DEADLINE_S, retries=0)
        self._narrow = targets.narrow.options(deadline_s=2.0, retries=0)
        self._single = [*(one.options(retries=0) for one in single), self._steady, self._narrow]
        self._ways: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._ask_any, 20), (self._ask_steady, 20), (self._ask_one, 15), (self._tell, 20),
            (self._stream, 6), (self._leave_ask, 8), (self._leave_stream, 2), (self._again, 5),
            (self._relay, 2), (self._fail, 2), (self._short, 2), (self._slow, 1), (self._burst, 1),
        ]  # fmt: skip

    def begin(self) -> None:
        """Start sending."""
        self._running = asyncio.create_task(self._run())

    async def finish(self, limit_s: float) -> Counter[str]:
        """Send nothing more and wait for what is open; returns how often what happened.

        Raises `TimeoutError` if a caller is told nothing within ``limit_s``, which is above every deadline.
        """
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait((self._running,))
        if not self._running.cancelled():
            self._running.result()
        if self._tasks:
            _, hanging = await asyncio.wait(self._tasks, timeout=limit_s)
            if hanging:
                raise TimeoutError(f"{len(hanging)} callers were told nothing within {limit_s:g} s")
        self._ledger.close()
        return self._seen

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        ways, weights = zip(*self._ways, strict=True)
        due = loop.time()
        while True:
            due = max(
                due + self._pause_s, loop.time() - 0.1
            )  # what was missed while frozen is not made up for
            await asyncio.sleep(due - loop.time())
            if len(self._tasks) < MOST_OPEN:
                (way,) = self._rng.choices(ways, weights)
                task = asyncio.ensure_future(self._guarded(way))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _guarded(self, way: Callable[[], Awaitable[None]]) -> None:
        """A way reports by the ledger; what it raises is a mistake, of the soak or of the product."""
        try:
            await way()
        except asyncio.CancelledError:
            pass
        except Exception as error:
            self._saw_wrong(f"{way.__name__} raised {type(error).__name__}: {error}")
            self._ledger.write(Event.OUTCOME, self._id(), Outcome.WRONG)

    # -- one message

    def _id(self) -> int:
        self._next += 1
        return self._next

    def _order(self, ref: Ref[Any]) -> int:
        self._orders[ref.name] += 1
        return self._orders[ref.name]

    def _pad(self) -> bytes:
        return bytes(self._rng.choice((0, 0, 0, 100, 1000, 20_000)))

    async def _ask(self, ref: Ref[Any], verb: Verb, method: str, *args: Any, ordered: bool = True) -> None:
        """Ask, and write down the outcome. What is ordered is numbered and sent in one step."""
        number_id = self._id()
        self._ledger.write(Event.SENT, number_id, verb)
        told = Outcome.LEFT
        try:
            first = (number_id, self._order(ref)) if ordered else (number_id,)
            value = await ref.ask(method, *first, *args)
            told = Outcome.VALUE if value == number_id else Outcome.WRONG
            if told is Outcome.WRONG:
                self._saw_wrong(f"{method} of {ref.name} answered {value!r} instead of {number_id}")
        except ActorError as error:
            told = self._told(error)
            if verb is Verb.AGAIN:
                self._saw_wrong(f"an idempotent ask failed: {type(error).__name__}: {error}")
        except ValueError as error:
            told = Outcome.YES if method == "fail" and error.args == (number_id,) else Outcome.WRONG
            self._seen["ValueError yes"] += 1
        finally:
            self._ledger.write(Event.OUTCOME, number_id, told)

    def _told(self, error: ActorError) -> Outcome:
        self._seen[f"{type(error).__name__} {error.executed.value}"] += 1
        return TOLD[error.executed]

    def _saw_wrong(self, text: str) -> None:
        self._seen[f"wrong: {text}"] += 1
        log.error("%s", text)  # this process may be killed before anybody asks what it has seen

    async def _read(self, ref: Ref[Any], count: int, pause_s: float, most: int) -> None:
        """Read ``most`` items of a stream; all of them, and its end, if that is ``count``."""
        number_id, got = self._id(), 0
        self._ledger.write(Event.SENT, number_id, Verb.STREAM)
        told = Outcome.LEFT
        stream = ref.stream("items", number_id, self._order(ref), count, pause_s)
        try:
            async for item in stream:
                if item != [number_id, got]:
                    self._saw_wrong(f"a stream of {ref.name} gave {item} as item {got} of {number_id}")
                    told = Outcome.WRONG
                    return
                got += 1
                if got == most < count:
                    return
            told = Outcome.VALUE if got == count else Outcome.WRONG
            if told is Outcome.WRONG:
                self._saw_wrong(f"a stream of {count} items ended after {got}")
        except ActorError as error:
            told = self._told(error)
            if error.items != got or (got and error.executed is Executed.NEVER):
                self._saw_wrong(f"a stream failed after {got} items and says: {error}")
                told = Outcome.WRONG
        finally:
            await stream.aclose()
            self._ledger.write(Event.OUTCOME, number_id, told, got)

    def _tell_once(self, ref: Ref[Any], hold_s: float, pad: bytes) -> None:
        number_id = self._id()
        self._ledger.write(Event.SENT, number_id, Verb.TELL)
        try:
            ref.tell("note", number_id, self._order(ref), hold_s, pad)
        except ActorError as error:
            self._ledger.write(Event.OUTCOME, number_id, self._told(error))

    # -- the ways

    async def _ask_any(self) -> None:
        await self._ask(self._workers, Verb.ASK, "work", 0, self._hold(), self._pad(), ordered=False)

    async def _ask_steady(self) -> None:
        await self._ask(self._steady, Verb.ASK, "work", 0.0, self._pad())

    async def _ask_one(self) -> None:
        await self._ask(self._one(), Verb.ASK, "work", self._hold(), self._pad())

    async def _tell(self) -> None:
        self._tell_once(self._one(), self._hold(), self._pad())

    async def _stream(self) -> None:
        count = self._rng.choice((0, 1, 10, 300))
        await self._read(self._one(), count, self._rng.choice((0.0, 0.001)), count)

    async def _leave_stream(self) -> None:
        await self._read(self._one(), 300, 0.002, self._rng.randrange(1, 100))

    async def _leave_ask(self) -> None:
        blocks = self._rng.random() < 0.2
        ask = (
            self._ask(self._workers, Verb.ASK, "block", 1.0, ordered=False)
            if blocks
            else self._ask(self._one(), Verb.ASK, "work", 1.0)
        )
        task = asyncio.ensure_future(ask)
        try:
            await asyncio.wait((task,), timeout=self._rng.choice((0.0, 0.001, 0.01, 0.1)))
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def _again(self) -> None:
        await self._ask(self._patient, Verb.AGAIN, "again", self._hold(), ordered=False)

    async def _relay(self) -> None:
        await self._ask(self._rng.choice(self._single[:-2]), Verb.ASK, "relay", self._hold())

    async def _fail(self) -> None:
        await self._ask(self._one(), Verb.ASK, "fail")

    async def _short(self) -> None:
        ref = self._one().options(deadline_s=self._rng.uniform(0.001, 0.3))
        await self._ask(ref, Verb.ASK, "work", 0.2)

    async def _slow(self) -> None:
        if self._rng.random() < 0.5:
            await self._ask(self._workers, Verb.ASK, "block", 0.6, ordered=False)
        else:
            await self._ask(self._one(), Verb.ASK, "work", 0.6)

    async def _burst(self) -> None:
        """More than a small mailbox holds, told and asked in turn."""
        asks = []
        for number in range(BURST):
            if number % 3:
                self._tell_once(self._narrow, 0.002, b"")
            else:
                asks.append(self._ask(self._narrow, Verb.ASK, "work", 0.002))
        await asyncio.gather(*asks)

    def _one(self) -> Ref[Any]:
        return self._rng.choice(self._single)

    def _hold(self) -> float:
        return self._rng.choice((0.0, 0.0, 0.001, 0.01, 0.05))
