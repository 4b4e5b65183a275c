"""One actor by itself: what its drainers take, what expires, and what one message leaves for the next."""

import asyncio
from contextvars import copy_context
from time import monotonic

import msgspec
import pytest

from callboard.actors.actor import Actor, interleave
from callboard.actors.cell import TURN_LETTERS, TURN_S, Cell
from callboard.actors.codec import Codec
from callboard.actors.current import CURRENT, is_cancelled, remaining_s
from callboard.actors.directory import Location
from callboard.actors.envelope import ASK, TELL
from callboard.actors.errors import ActorStopped, BadArguments, DeadlineExceeded, MailboxFull
from callboard.actors.mailbox import Letter
from callboard.actors.pending import INFINITE
from callboard.actors.policy import MailboxPolicy, State, StopReason


class Worker(Actor):
    def __init__(self):
        self.seen = []

    async def note(self, number: int) -> int:
        self.seen.append(number)
        return number

    async def spin(self, number: int, seconds: float) -> None:
        """Takes time of the processor and never waits."""
        self.seen.append(number)
        end = monotonic() + seconds
        while monotonic() < end:
            pass

    def current(self) -> list:
        return [remaining_s(0.0) is not None, is_cancelled()]

    async def wait(self, gate: object) -> None:
        await gate.wait()

    async def breaks(self) -> None:
        raise ValueError("broken")

    @interleave
    async def beside(self, gate: object) -> None:
        await gate.wait()


class Origin:
    """Where answers go."""

    def __init__(self):
        self.answers = {}

    def _answer(self, letter, answer):
        assert letter.id not in self.answers, "a second outcome"
        self.answers[letter.id] = answer

    def reply(self, letter, value):
        self._answer(letter, value)

    def fail(self, letter, error, *, ran):
        if letter.kind != TELL:
            self._answer(letter, (type(error), ran))

    def forget(self, letter):
        self._answer(letter, None)


class Inlet:
    """What counts credit."""

    half = half_bytes = 1000

    def __init__(self):
        self.count = self.bytes = 0

    def overflows(self, size):
        return True

    def taken(self, size):
        self.count += 1
        self.bytes += size


class Host:
    """What a cell needs."""

    def __init__(self):
        self.codec = Codec()
        self.context = copy_context()
        self.dropped_tells = 0
        self.failures = []

    def actor_failed(self, cell, error):
        cell.state = State.FAILED
        self.failures.append(error)


async def until(condition):
    """Let the loop run until the condition is true; the time limit of the test ends one that never is."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


class Bench:
    """A cell, and letters for it."""

    def __init__(self, concurrency=1, **mailbox):
        self.host, self.origin, self.inlet = Host(), Origin(), Inlet()
        self.cell = Cell(
            self.host, Worker, Location("w.0", "n", "memory://x", 1), MailboxPolicy(**mailbox), concurrency
        )
        self.cell.actor = Worker()
        self.number = 0

    def send(self, method, *args, kind=ASK, deadline=INFINITE, body=None, **more):
        self.number += 1
        found, arguments = self.cell.methods[method], None if body else list(args)
        letter = Letter(
            kind,
            self.number,
            body,
            method=found,
            origin=self.origin,
            deadline=deadline,
            args=arguments,
            cell=self.cell,
            **more,
        )
        self.cell.deliver(letter)
        return letter

    async def idle(self):
        cell = self.cell
        await until(lambda: not (cell.mailbox.queue or cell.drainers or cell.loose))


async def test_nothing_runs_before_the_cell_is_opened():
    bench = Bench()
    bench.send("note", 1)
    await asyncio.sleep(0)
    assert bench.cell.actor.seen == []
    bench.cell.open()
    await bench.idle()
    assert bench.origin.answers == {1: 1}


async def test_an_idle_actor_owns_no_task():
    bench = Bench(concurrency=4)
    bench.cell.open()
    before = asyncio.all_tasks()
    for number in range(10):
        bench.send("note", number)
    await bench.idle()
    assert asyncio.all_tasks() == before
    assert bench.cell.running == 0


async def test_an_expired_letter_is_answered_never_and_does_not_run():
    bench = Bench()
    late = bench.send("note", 1, deadline=monotonic() - 1)
    bench.send("note", 2, deadline=monotonic() + 100)
    bench.cell.open()
    await bench.idle()
    assert bench.origin.answers == {late.id: (DeadlineExceeded, False), 2: 2}
    assert (bench.cell.actor.seen, bench.cell.expired) == ([2], 1)


async def test_handlers_that_never_wait_are_all_run_by_few_tasks():
    bench = Bench(concurrency=1000)
    bench.cell.open()
    most = 0
    for number in range(2000):
        bench.send("note", number)
    while len(bench.cell.actor.seen) < 2000:
        await asyncio.sleep(0)
        most = max(most, len(bench.cell.drainers))
    assert bench.cell.actor.seen == list(range(2000))
    assert most <= 5
    await bench.idle()


@pytest.mark.parametrize("concurrency", [1, 1000])
async def test_the_loop_gets_its_turn_after_a_few_handlers_that_take_long(concurrency):
    """A turn ends by time: the clock is read after 1, 2, 4, ... letters, and at most three drainers have theirs."""
    bench = Bench(concurrency)
    for number in range(200):
        bench.send("spin", number, 2 * TURN_S)
    bench.cell.open()
    most, before = 0, 0
    while before < 200:
        await asyncio.sleep(0)
        seen = len(bench.cell.actor.seen)
        most, before = max(most, seen - before), seen
    assert most <= 3 * 2
    assert bench.cell.actor.seen == list(range(200))
    await bench.idle()


async def test_the_loop_gets_its_turn_among_handlers_that_never_wait():
    bench = Bench()
    for number in range(4 * TURN_LETTERS):
        bench.send("note", number)
    bench.cell.open()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(bench.cell.actor.seen) <= 2 * TURN_LETTERS
    await bench.idle()
    assert bench.cell.actor.seen == list(range(4 * TURN_LETTERS))


async def test_each_message_has_its_own_deadline_and_cancellation():
    bench = Bench()
    bench.send("current", deadline=monotonic() + 100)
    bench.send("current")
    bench.cell.open()
    await bench.idle()
    assert bench.origin.answers == {1: [True, False], 2: [False, False]}
    assert CURRENT.get() is None


@pytest.mark.parametrize("concurrency", [1, 3, 64])
async def test_as_many_handlers_run_as_the_concurrency_says_and_no_more(concurrency):
    """They are reached in about log n turns of the loop."""
    bench, gate = Bench(concurrency), asyncio.Event()
    bench.cell.open()
    for _ in range(100):
        bench.send("wait", gate)
    for _ in range(12):
        await asyncio.sleep(0)
    assert (bench.cell.running, len(bench.cell.mailbox)) == (concurrency, 100 - concurrency)
    gate.set()
    await bench.idle()
    assert len(bench.origin.answers) == 100


async def test_every_letter_gives_back_its_credit_once_whatever_becomes_of_it():
    bench, gate = Bench(messages=5), asyncio.Event()
    more = {"inlet": bench.inlet, "size": 10}
    bench.cell.open()
    held = bench.send("wait", gate, **more)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    beside = bench.send("beside", gate, **more)
    cut_early = bench.send("beside", gate, **more)
    queued = [bench.send("note", number, **more) for number in range(5)]
    refused = bench.send("note", 9, **more)
    bench.cell.cancel(cut_early)
    bench.cell.cancel(queued[0])
    bench.cell.cancel(queued[0])
    bench.cell.cancel(held)
    late = bench.send("note", 1, deadline=monotonic() - 1, **more)
    await asyncio.sleep(0)
    gate.set()
    await bench.idle()
    assert (bench.inlet.count, bench.inlet.bytes) == (10, 100)
    assert bench.origin.answers[refused.id] == (MailboxFull, False)
    assert bench.origin.answers[late.id] == (DeadlineExceeded, False)
    assert bench.origin.answers[beside.id] is None
    assert bench.cell.mailbox.bytes == 0


class Waiter:
    """Who waits for room."""

    def __init__(self, *, takes):
        self.takes = takes
        self.admitted = []

    def admit(self, *, open_):
        self.admitted.append(open_)
        return self.takes


async def test_who_waits_for_room_is_admitted_as_soon_as_there_is_some():
    """Not only when the mailbox has run empty; each sender gets a place, and inlets take none."""
    bench, gates = Bench(messages=2), [asyncio.Event() for _ in range(4)]
    bench.cell.open()
    bench.send("wait", gates[0])
    await until(lambda: bench.cell.running == 1)
    bench.send("wait", gates[1])
    bench.send("wait", gates[2])
    waiters = [Waiter(takes=False), Waiter(takes=True), Waiter(takes=True)]
    for waiter in waiters:
        bench.cell.wait_for_room(waiter)
    bench.cell.let_in()
    assert [waiter.admitted for waiter in waiters] == [[], [], []]
    gates[0].set()
    await until(lambda: waiters[0].admitted)
    assert (len(bench.cell.mailbox), bench.cell.running) == (1, 1)
    assert [waiter.admitted for waiter in waiters] == [[True], [True], []]
    assert (bench.cell.reserved, bench.cell.queued) == (1, True)
    gates[1].set()
    await until(lambda: waiters[2].admitted)
    await bench.cell.stop(StopReason.COMMANDED, 0)


async def test_who_waits_for_room_is_told_that_the_actor_has_closed():
    bench = Bench(messages=1)
    bench.send("note", 1)
    waiters = [Waiter(takes=True), Waiter(takes=False)]
    for waiter in waiters:
        bench.cell.wait_for_room(waiter)
    await bench.cell.stop(StopReason.COMMANDED, 0)
    assert [waiter.admitted for waiter in waiters] == [[False], [False]]


@pytest.mark.parametrize(
    "body",
    [b"\xc1", b"\x91", b"\xc0", b"\xa1x", b"\x81\xa1a\x90", b"\x82\xa1a\x90\xa1k\x90", b"\x05"],
    ids=range(7),
)
async def test_a_body_that_holds_no_arguments_is_refused_and_the_actor_lives(body):
    bench = Bench()
    bench.cell.open()
    asked = bench.send("note", body=msgspec.Raw(body))
    bench.send("note", kind=TELL, body=msgspec.Raw(body))
    bench.send("note", 5)
    await bench.idle()
    assert bench.origin.answers[asked.id] == (BadArguments, False)
    assert (bench.host.dropped_tells, bench.host.failures) == (1, [])
    assert bench.cell.actor.seen == [5]


async def test_a_tell_that_raises_fails_the_actor_and_an_ask_that_raises_does_not():
    bench = Bench()
    bench.cell.open()
    bench.send("breaks")
    bench.send("note", 1)
    await bench.idle()
    assert bench.host.failures == []
    bench.send("breaks", kind=TELL)
    bench.send("note", 2)
    await until(lambda: bench.host.failures)
    assert str(bench.host.failures[0]) == "broken"
    assert bench.cell.actor.seen == [1]
    assert len(bench.cell.mailbox) == 1


async def test_a_stop_answers_an_interleaving_message_that_has_not_begun():
    bench = Bench()
    bench.cell.open()
    letter = bench.send("beside", asyncio.Event())
    await bench.cell.stop(StopReason.COMMANDED, 0)
    assert bench.origin.answers == {letter.id: (ActorStopped, False)}


async def test_a_stop_answers_what_waits_and_calls_the_hook_once():
    bench, gate = Bench(), asyncio.Event()
    bench.cell.open()
    bench.send("wait", gate)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = [bench.send("note", number) for number in range(3)]
    bench.send("note", 3, kind=TELL)
    stopping = asyncio.create_task(bench.cell.stop(StopReason.COMMANDED, 10))
    await asyncio.sleep(0)
    late = bench.send("note", 4)
    assert {bench.origin.answers[letter.id] for letter in [*waiting, late]} == {(ActorStopped, False)}
    assert bench.host.dropped_tells == 1
    gate.set()
    await stopping
    assert bench.cell.state is State.STOPPED
    assert bench.origin.answers[1] is None  # the answer of the handler that was running
