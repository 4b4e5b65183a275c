"""Open asks and their deadlines."""

import asyncio
import itertools
import random
from time import monotonic

from callboard.actors.deadlines import Sweeper
from callboard.actors.directory import Location
from callboard.actors.errors import DeadlineExceeded
from callboard.actors.pending import INFINITE, Call, PendingTable
from callboard.actors.policy import Executed


def table():
    armed = []
    return PendingTable(armed.append), armed


def call(deadline):
    return Call(None, None, deadline, "method")


def test_the_timer_is_armed_for_the_nearest_deadline_only():
    pending, armed = table()
    for number, deadline in enumerate((10.0, 20.0, 5.0, INFINITE, 5.0)):
        pending.add(number, call(deadline))
    assert armed == [10.0, 5.0]
    assert (len(pending), pending.nearest) == (5, 5.0)


def test_what_has_expired_comes_out_and_the_timer_is_armed_for_the_next():
    pending, armed = table()
    for number, deadline in enumerate((3.0, 1.0, 2.0, INFINITE)):
        pending.add(number, call(deadline))
    assert [number for number, _ in pending.expired(2.0)] == [1, 2]
    assert (sorted(pending.calls), armed[-1]) == ([0, 3], 3.0)
    assert [number for number, _ in pending.expired(3.0)] == [0]
    assert pending.nearest == INFINITE
    pending.add(9, call(4.0))
    assert armed[-1] == 4.0


def test_a_timer_that_comes_early_is_armed_again_and_does_not_spin():
    pending, armed = table()
    pending.add(1, call(5.0))
    assert pending.expired(4.9999) == []
    assert armed[-1] >= 4.9999 + 0.001


def test_an_answered_ask_leaves_a_timer_that_finds_nothing():
    pending, _ = table()
    pending.add(1, call(5.0))
    pending.calls.pop(1)
    assert pending.expired(5.0) == []
    assert pending.nearest == INFINITE


def test_every_deadline_is_met_in_any_order_of_asks_and_answers():
    pending, armed = table()
    deadlines = {number: random.uniform(0, 100) for number in range(300)}
    for number in random.sample(range(300), 300):
        pending.add(number, call(deadlines[number]))
    answered = set(random.sample(range(300), 100))
    for number in answered:
        pending.calls.pop(number)
    over, rounds = [], []
    while pending.nearest != INFINITE:
        expired = pending.expired(armed[-1])
        rounds.append([one.deadline for _, one in expired])
        over += [number for number, _ in expired]
    assert sorted(over) == sorted(set(range(300)) - answered)
    rounds = [deadlines for deadlines in rounds if deadlines]
    assert all(max(earlier) < min(later) for earlier, later in itertools.pairwise(rounds))


def test_everything_is_taken_at_the_end():
    pending, _ = table()
    calls = [call(float(number)) for number in range(3)]
    for number, one in enumerate(calls):
        pending.add(number, one)
    assert pending.take_all() == calls
    assert len(pending) == 0
    assert "0 open, 0 late" in repr(pending)


class Way:
    """Where an ask went."""

    location = Location("a.0", "node", "memory://x", 1, 4)

    def __init__(self):
        self.cancelled = []

    def forget_waiting(self, call_id):
        return call_id == 2

    def cancel(self, call_id):
        self.cancelled.append(call_id)


async def test_the_sweeper_fails_each_ask_at_its_deadline_and_cancels_its_handler():
    sweeper, way = Sweeper(), Way()
    sweeper.start()
    futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
    for number, after in enumerate((0.03, 0.02, 0.01)):
        sweeper.pending.add(number, Call(futures[number], way, monotonic() + after, "greet"))
    errors = await asyncio.gather(*futures, return_exceptions=True)
    assert way.cancelled == [2, 1, 0]
    assert {(type(e), e.actor, e.incarnation) for e in errors} == {(DeadlineExceeded, "a.0", 4)}
    assert [e.executed for e in errors] == [Executed.MAYBE, Executed.MAYBE, Executed.NEVER]
    assert "greet" in str(errors[0])
    sweeper.close()
