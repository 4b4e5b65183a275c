"""Asks and streams through a network that fails: each ends in a value or an error, and no handler runs twice.

A ledger proves it: an actor that writes down every run. What an error says of its ask (`executed`) must agree.
"""

import asyncio
from collections import Counter

import pytest

from callboard.actors.actor import Actor
from callboard.actors.errors import ActorError, ActorUnavailable, DeadlineExceeded
from callboard.actors.policy import Executed

from ...fault_proxy import Way
from ..network import PATIENCE_S, until
from ..rig import Ability, needs
from .classes import Echo, Gate
from .pairs import drain, in_time, turns

QUICK = {"heartbeat_interval_s": 0.2, "heartbeat_timeout_s": 0.8}
DEADLINE_S = 2.0
WAYS = pytest.mark.parametrize(
    "ways", [(Way.UP,), (Way.DOWN,), (Way.UP, Way.DOWN)], ids=["up", "down", "both"]
)


class Ledger(Actor):
    """Writes down who asked for what, before it answers."""

    concurrency = 8

    def __init__(self):
        self.runs = Counter()

    async def enter(self, number: int) -> int:
        self.runs[number] += 1
        await turns(number % 3)
        return number

    async def pour(self, count: int):
        for number in range(count):
            yield number
            await asyncio.sleep(0.001)


class Load:
    """Asks without end, a few at a time, and keeps what became of each."""

    def __init__(self, pair, ref):
        self.pair = pair
        self.ref = ref.options(deadline_s=DEADLINE_S)
        self.outcomes = {}
        self.late = []
        self._next = 0
        self._over = False
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(8)]

    async def _ask(self):
        loop = asyncio.get_running_loop()
        while not self._over:
            number, self._next = self._next, self._next + 1
            began = loop.time()
            try:
                self.outcomes[number] = await self.ref.ask(Ledger.enter, number)
            except ActorError as error:
                self.outcomes[number] = error
            if loop.time() - began > DEADLINE_S + PATIENCE_S / 2:
                self.late.append(number)
            await asyncio.sleep(0.001)

    @property
    def answered(self):
        """How many asks have been answered by a value."""
        return sum(1 for outcome in self.outcomes.values() if not isinstance(outcome, ActorError))

    async def flows(self):
        """Return when some more asks have been answered."""
        before = self.answered
        await until(lambda: self.answered >= before + 20, lambda: f"{self.answered} answered, then no more")

    async def end(self):
        """Stop asking; check what became of every ask against the ledger."""
        self._over = True
        await in_time(asyncio.gather(*self._tasks))
        assert len(self.outcomes) == self._next, "an ask had no outcome"
        assert self.late == []
        runs = self.pair.actor().runs
        assert [number for number, count in runs.items() if count > 1] == [], "a handler ran twice"
        for number, outcome in self.outcomes.items():
            if not isinstance(outcome, ActorError):
                assert outcome == number
                assert runs[number] == 1
            elif outcome.executed is Executed.NEVER:
                assert runs[number] == 0, f"{outcome!r} says that it never ran"
            else:
                assert isinstance(outcome, ActorUnavailable | DeadlineExceeded)


@needs(Ability.CUT)
async def test_asks_through_cuts_end_in_a_value_or_an_error_and_none_runs_twice(faulty):
    load = Load(faulty, await faulty.spawn(Ledger))
    for _ in range(10):
        await load.flows()
        faulty.rig.cut()
    await load.flows()
    await load.end()


@needs(Ability.BLACKHOLE)
@WAYS
async def test_asks_into_silence_end_within_their_deadline_and_none_runs_twice(faulty, ways):
    load = Load(faulty, await faulty.spawn(Ledger))
    await load.flows()
    faulty.rig.blackhole(*ways)
    failed = len(load.outcomes) - load.answered
    await until(lambda: len(load.outcomes) - load.answered >= failed + 8, "every ask under way has failed")
    faulty.rig.heal()
    await load.flows()
    await load.end()


@needs(Ability.DELAY)
async def test_asks_and_streams_over_a_slow_network_lose_nothing(faulty):
    ref = await faulty.spawn(Ledger)
    faulty.rig.delay(0.02)
    load = Load(faulty, ref)
    items = [item async for item in ref.stream(Ledger.pour, 300)]
    assert items == list(range(300))
    await load.flows()
    await load.end()
    assert load.answered == len(load.outcomes)


@needs(Ability.BYTEWISE)
async def test_values_that_come_byte_by_byte_are_whole(faulty):
    faulty.rig.bytewise()
    ref = await faulty.spawn(Echo)
    for value in (None, "text", [1, {"a": (1, 2.5)}], bytes(range(256)) * 16):
        assert await ref.ask(Echo.echo, value) == value
    assert [item async for item in ref.stream(Echo.count, 200)] == list(range(200))


@needs(Ability.CUT)
async def test_a_stream_that_is_cut_has_delivered_a_beginning_and_says_how_much(faulty):
    ref = await faulty.spawn(Gate)
    stream = ref.stream(Gate.trickle, 5)
    first = [await anext(stream) for _ in range(5)]
    faulty.rig.cut()
    rest, error = await in_time(drain(stream))
    assert (first, rest) == ([0, 1, 2, 3, 4], [])
    assert (type(error), error.items) == (ActorUnavailable, 5)
    await until(lambda: faulty.actor().cancelled == ["trickle"], "the producer hears of it, too")


@needs(Ability.BROKER)
@pytest.mark.parametrize("fault", ["frozen", "killed", "started again"])
async def test_asks_while_the_broker_is_gone_end_within_their_deadline_and_flow_again_when_it_is_back(
    faulty, fault
):
    load = Load(faulty, await faulty.spawn(Ledger))
    for _ in range(2):
        await load.flows()
        if fault == "frozen":
            await faulty.rig.freeze_broker()
        else:
            await faulty.rig.kill_broker()
        if fault != "started again":  # else it is back before anybody has missed it
            failed = len(load.outcomes) - load.answered
            await until(lambda failed=failed: len(load.outcomes) - load.answered >= failed + 8)
        await faulty.rig.return_broker()
    await load.flows()
    await load.end()
