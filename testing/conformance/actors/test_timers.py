"""Timers: messages of an actor to itself, by key."""

import asyncio

import pytest

from callboard.actors.actor import interleave
from callboard.actors.errors import BadArguments, Overloaded, UnknownMethod
from callboard.actors.policy import MailboxPolicy, Overflow, StopReason

from ..network import until
from .classes import Gate
from .pairs import in_time, outcomes, turns

LONG_S = 1_000.0


class Clock(Gate):
    """Starts timers."""

    async def start(self, key, after_s, method, *args) -> None:
        self.context.start_timer(key, after_s, method, *args)

    async def every(self, key, every_s, method, *args) -> None:
        self.context.start_periodic_timer(key, every_s, method, *args)

    async def cancel(self, key) -> bool:
        return self.context.cancel_timer(key)

    async def hold_and(self, first, *calls) -> None:
        """Hold like `hold`, then start and cancel timers before anything else is handled."""
        await self.hold(first)
        for call in calls:
            await getattr(self, call[0])(*call[1:])

    async def named(self, *, what: str) -> None:
        self.seen.append(what)

    async def restart(self, left: int) -> None:
        self.seen.append(left)
        if left:
            self.context.start_timer("again", 0, Clock.restart, left - 1)

    @interleave
    async def tick_beside(self, number) -> None:
        self.seen.append(number)

    async def breaks(self) -> None:
        raise ValueError("too late")


def inner(pair):
    return pair.cell().inner


async def test_a_timer_is_a_message_that_comes_once(pair):
    ref = await pair.spawn(Clock)
    await ref.ask(Clock.start, "key", 0.01, "note", 7)
    actor = pair.actor()
    await until(lambda: actor.seen == [7])
    await until(lambda: len(inner(pair).timers) == 0)
    assert not await ref.ask(Clock.cancel, "key")
    assert actor.seen == [7]


async def test_a_timer_takes_named_arguments(pair):
    await pair.spawn(Clock)
    actor = pair.actor()
    actor.context.start_timer("key", 0, Clock.named, what="this")
    await until(lambda: actor.seen == ["this"])


async def test_timers_run_one_at_a_time_with_other_messages_and_in_order_among_them(pair):
    ref = await pair.spawn(Clock)
    actor = pair.actor()
    held = asyncio.create_task(ref.ask(Gate.hold, 0))
    await until(lambda: actor.seen == [0])
    before = asyncio.create_task(ref.ask(Gate.note, 1))
    await until(lambda: len(pair.cell().mailbox) == 1)
    actor.context.start_timer("key", 0, Clock.note, 2)
    await until(lambda: len(pair.cell().mailbox) == 2)
    after = asyncio.create_task(ref.ask(Gate.note, 3))
    await until(lambda: len(pair.cell().mailbox) == 3)
    actor.gate.set()
    await asyncio.gather(held, before, after)
    assert actor.seen == [0, 1, 2, 3]


async def test_a_key_that_is_started_again_replaces_its_timer(pair):
    await pair.spawn(Clock)
    actor = pair.actor()
    actor.context.start_timer("key", 0.01, Clock.note, "old")
    actor.context.start_timer("key", 0.02, Clock.note, "new")
    actor.context.start_timer("other", 0.03, Clock.note, "other")
    await until(lambda: "other" in actor.seen)
    assert actor.seen == ["new", "other"]


@pytest.mark.parametrize("kind", ["replaced", "cancelled"])
async def test_what_an_old_timer_has_in_the_mailbox_does_not_run(pair, kind):
    ref = await pair.spawn(Clock)
    actor = pair.actor()
    call = ("start", "key", 0, "note", "new") if kind == "replaced" else ("cancel", "key")
    held = asyncio.create_task(ref.ask(Clock.hold_and, 0, call))
    await until(lambda: actor.seen == [0])
    actor.context.start_timer("key", 0, Clock.note, "old")
    await until(lambda: len(pair.cell().mailbox) == 1)
    actor.gate.set()
    await held
    actor.context.start_timer("last", 0.01, Clock.note, "last")
    await until(lambda: "last" in actor.seen)
    assert actor.seen == ([0, "new", "last"] if kind == "replaced" else [0, "last"])


async def test_a_timer_may_start_its_own_key_again(pair):
    await pair.spawn(Clock)
    actor = pair.actor()
    actor.context.start_timer("again", 0, Clock.restart, 5)
    await until(lambda: actor.seen == [5, 4, 3, 2, 1, 0])
    await until(lambda: len(inner(pair).timers) == 0)


async def test_a_periodic_timer_goes_on_until_it_is_cancelled(pair):
    ref = await pair.spawn(Clock)
    actor = pair.actor()
    await ref.ask(Clock.every, "tick", 0.002, "note", "tick")
    await until(lambda: actor.seen.count("tick") >= 5)
    assert await ref.ask(Clock.cancel, "tick")
    count = len(actor.seen)
    actor.context.start_timer("last", 0.02, Clock.note, "last")
    await until(lambda: "last" in actor.seen)
    assert actor.seen[count:] == ["last"]
    assert not await ref.ask(Clock.cancel, "tick")


async def test_a_periodic_timer_does_not_pile_up_in_a_slow_actor(pair):
    ref = await pair.spawn(Clock)
    actor = pair.actor()
    held = asyncio.create_task(ref.ask(Gate.hold, 0))
    await until(lambda: actor.seen == [0])
    actor.context.start_periodic_timer("tick", 0.001, Clock.note, "tick")
    actor.context.start_timer("later", 0.05, Clock.note, "later")
    await until(lambda: len(pair.cell().mailbox) == 2)
    assert [letter.args for letter in pair.cell().mailbox.queue] == [["tick"], ["later"]]
    actor.gate.set()
    await held
    await until(lambda: actor.seen.count("tick") >= 3)


async def test_an_interleaving_method_can_be_timed(pair):
    ref = await pair.spawn(Clock)
    actor = pair.actor()
    held = asyncio.create_task(ref.ask(Gate.hold, 0))
    await until(lambda: actor.seen == [0])
    actor.context.start_periodic_timer("tick", 0.002, Clock.tick_beside, 1)
    await until(lambda: actor.seen.count(1) >= 3)
    actor.gate.set()
    await held


async def test_a_full_mailbox_loses_no_timer(pair):
    for overflow in Overflow:
        name = f"{overflow.value}.0"
        ref = await pair.spawn(Clock, name=name, mailbox=MailboxPolicy(messages=1, overflow=overflow))
        actor = pair.actor(name)
        held = asyncio.create_task(ref.ask(Gate.hold, 0))
        await until(lambda actor=actor: actor.seen == [0])
        actor.context.start_timer("a", 0, Clock.note, "a")
        actor.context.start_timer("b", 0, Clock.note, "b")
        await until(lambda name=name: len(pair.cell(name).mailbox) == 2)
        if overflow is Overflow.DROP_OLDEST:
            await outcomes(ref.options(deadline_s=0.05).ask(Gate.note, "message"))
        actor.gate.set()
        await held
        await until(lambda actor=actor: {"a", "b"} <= set(actor.seen))


async def test_timers_end_with_the_actor(pair):
    await pair.spawn(Clock)
    actor, cell = pair.actor(), pair.cell()
    actor.context.start_timer("once", 0.01, Clock.note, "late")
    actor.context.start_periodic_timer("tick", 0.002, Clock.note, "late")
    assert len(cell.inner.timers) == 2
    await pair.far.stop_actor("a.0", StopReason.COMMANDED)
    assert len(cell.inner.timers) == 0
    actor.seen.clear()
    actor.context.start_timer("after", 0, Clock.note, "late")
    await asyncio.sleep(0.02)  # nothing says that something does not come
    assert actor.seen == []


async def test_what_a_timer_raises_fails_the_actor(pair):
    failed = asyncio.get_running_loop().create_future()
    pair.far.on_actor_failed = lambda name, incarnation, error: failed.set_result((name, str(error)))
    await pair.spawn(Clock)
    pair.actor().context.start_timer("key", 0, Clock.breaks)
    assert await in_time(failed) == ("a.0", "too late")


async def test_wrong_timers_are_refused_when_they_are_started(pair):
    await pair.spawn(Clock)
    context = pair.actor().context
    for after_s in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"it must be 0 or more, and finite"):
            context.start_timer("key", after_s, Clock.note, 1)
    with pytest.raises(ValueError, match=r"a timer every 0 s; it must be 0\.001 or more"):
        context.start_periodic_timer("key", 0, Clock.note, 1)
    with pytest.raises(UnknownMethod, match="did you mean"):
        context.start_timer("key", 0, "note_", 1)
    with pytest.raises(UnknownMethod, match="is a stream"):
        context.start_timer("key", 0, Clock.endless)
    with pytest.raises(BadArguments, match="missing a required argument"):
        context.start_timer("key", 0, Clock.note)
    assert len(inner(pair).timers) == 0


async def test_timers_are_bounded(pair):
    await pair.spawn(Clock)
    context = pair.actor().context
    for key in range(1_000):
        context.start_timer(key, LONG_S, Clock.note, 1)
    with pytest.raises(Overloaded, match="it has 1,000 timers, and may have no more"):
        context.start_timer("one more", LONG_S, Clock.note, 1)
    context.start_timer(5, LONG_S, Clock.note, 2)
    assert context.cancel_timer(5)
    context.start_timer("one more", LONG_S, Clock.note, 1)


async def test_a_thread_is_told_that_timers_and_watches_are_for_the_event_loop(pair):
    await pair.spawn(Clock)
    context = pair.actor().context
    for call in (
        lambda: context.start_timer("key", 0, Clock.note, 1),
        lambda: context.watch(context.ref),
        context.unstash,
    ):
        with pytest.raises(RuntimeError, match="this is the thread of a blocking method"):
            await asyncio.to_thread(call)
    await turns(2)
