"""Asks: the right answer, in time, from the right actor, and never more than one run."""

import asyncio
import math
import random
import time

import pytest

from callboard.actors.errors import ActorNotFound, ActorUnavailable, CallCycle, DeadlineExceeded
from callboard.actors.policy import Executed, OnDown, StopReason

from ..network import until
from .classes import Caller, Echo, Gate, Wide
from .pairs import DEADLINES_S, in_time, outcomes, turns


@pytest.mark.parametrize("method", [Echo.echo, Echo.plain, "echo", "plain"])
async def test_an_ask_returns_what_the_method_returns(pair, method):
    ref = await pair.spawn(Echo)
    for value in [None, 1, "text", [1, {"a": (1, 2)}], b"x" * 100_000]:
        assert await ref.ask(method, value) == value


async def test_a_blocking_method_runs_in_a_thread_and_its_answer_comes_back(pair):
    ref = await pair.spawn(Echo)
    assert await ref.ask(Echo.threaded, 1) == (1, False)


async def test_arguments_arrive_by_position_and_by_name(pair):
    ref = await pair.spawn(Echo)
    assert await ref.ask(Echo.named, 1) == [1, "two", 3.0]
    assert await ref.ask(Echo.named, 1, "b", third=4.5) == [1, "b", 4.5]
    assert await ref.ask(Echo.named, first=1, second="c") == [1, "c", 3.0]
    assert await ref.ask(Echo.any_number, 1, 2, a=3) == [[1, 2], {"a": 3}]


async def test_each_of_many_asks_gets_its_own_answer(pair):
    class Shuffler(Wide):
        async def after(self, number: int, wait: int) -> int:
            await turns(wait)
            return number

    ref = await pair.spawn(Shuffler)
    answers = await asyncio.gather(*(ref.ask(Shuffler.after, n, random.randrange(5)) for n in range(2000)))
    assert answers == list(range(2000))


async def test_messages_of_one_sender_are_handled_in_the_order_sent(pair):
    """Tells, asks and streams, small, large and with buffers, over the credit window several times."""
    ref = await pair.spawn(Gate)
    waiting, sent = [], []
    for number in range(3000):
        value = [number, bytes(80_000 if number % 500 == 7 else 10)]
        sent.append(value)
        kind = number % 3
        if kind == 0:
            await ref.tell_wait(Gate.note, value)
        elif kind == 1:
            waiting.append(asyncio.create_task(ref.ask(Gate.note, value)))
            await asyncio.sleep(0)
        else:
            waiting.append(asyncio.create_task(anext(ref.stream(Gate.note_stream, value))))
            await asyncio.sleep(0)
    assert await asyncio.gather(*waiting) == [value for n, value in enumerate(sent) if n % 3]
    assert [value[0] for value in pair.actor().seen] == list(range(3000))
    assert pair.actor().seen == sent


# -- deadlines


async def test_an_ask_that_takes_too_long_fails_and_its_handler_is_cancelled(pair):
    ref = await pair.spawn(Gate)
    for seconds in DEADLINES_S:
        with pytest.raises(DeadlineExceeded) as caught:
            await ref.options(deadline_s=seconds).ask(Gate.hold, seconds)
        error = caught.value
        assert isinstance(error, TimeoutError)
        assert (error.actor, error.incarnation) == ("a.0", 1)
        if pair.actor().seen:
            assert error.executed is Executed.MAYBE
            break
    # Of an earlier one, too, if it came after its caller had left.
    await until(lambda: seconds in pair.actor().cancelled and pair.actor().cancelled == pair.actor().seen)
    assert await ref.ask(Gate.note, 2) == 2


async def test_a_message_whose_deadline_passes_in_the_mailbox_does_not_run(pair):
    ref = await pair.spawn(Gate)
    first = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: pair.actor().seen)
    with pytest.raises(DeadlineExceeded):
        await ref.options(deadline_s=0.02).ask(Gate.note, 2)
    await ref.ask(Gate.look)  # by now the far side knows
    pair.actor().gate.set()
    assert await first == 1
    assert await ref.ask(Gate.note, 3) == 3
    assert pair.actor().seen == [1, 3]


async def test_deadlines_end_asks_in_their_order_not_in_that_of_the_asks(pair):
    ref = await pair.spawn(Wide)

    async def ask(number, seconds):
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await ref.options(deadline_s=seconds).ask(Gate.hold, number)
        return time.monotonic() - started

    asks = [asyncio.create_task(ask(n, s)) for n, s in enumerate((60, 0.15, 0.05, 0.1))]
    took = await asyncio.gather(*asks[1:])
    assert all(took >= seconds for took, seconds in zip(took, (0.15, 0.05, 0.1), strict=True))
    assert not asks[0].done()
    asks[0].cancel()
    await outcomes(asks[0])


async def test_an_ask_without_a_deadline_waits(pair):
    ref = await pair.spawn(Caller)
    assert await ref.options(deadline_s=math.inf).ask(Caller.remaining) is None
    assert 0 < await ref.ask(Caller.remaining) <= pair.near.settings.request_timeout_s


async def test_a_nested_ask_has_what_is_left_of_the_time(pair):
    outer = await pair.spawn(Caller, name="outer.0")
    inner = await pair.spawn(Caller, name="inner.0")
    left = await outer.options(deadline_s=2).ask(Caller.pass_on, inner, "remaining")
    assert 0 < left <= pair.actor("outer.0").left[0] <= 2
    left = await outer.options(deadline_s=2).ask(Caller.pass_on, inner.options(deadline_s=1), "remaining")
    assert 0 < left <= 2  # a reference in a message is a name; its options stay with the sender


async def test_a_nested_ask_whose_time_is_over_is_not_sent(pair):
    outer = await pair.spawn(Caller, name="outer.0")
    inner = await pair.spawn(Gate, name="inner.0")
    for seconds in DEADLINES_S:
        with pytest.raises(DeadlineExceeded):
            await outer.options(deadline_s=seconds).ask(Caller.ask_too_late, inner)
        await pair.quiet("outer.0")
        if pair.actor("outer.0").errors:
            break
    (error,) = pair.actor("outer.0").errors
    assert (type(error), error.executed) == (DeadlineExceeded, Executed.NEVER)
    assert await inner.ask(Gate.note, 1) == 1
    assert pair.actor("inner.0").seen == [1]


async def test_the_deadline_of_one_message_is_not_that_of_the_next(pair):
    ref = await pair.spawn(Caller)
    assert await ref.options(deadline_s=1).ask(Caller.remaining) <= 1
    assert await ref.options(deadline_s=100).ask(Caller.remaining) > 50


# -- who is asked


async def test_an_ask_to_who_is_known_to_be_down_fails_at_once(pair):
    ref = await pair.spawn(Echo)
    await pair.stop("a.0")
    with pytest.raises(ActorUnavailable, match="it was stopped") as caught:
        await ref.ask(Echo.echo, 1)
    assert (caught.value.executed, caught.value.actor) == (Executed.NEVER, "a.0")
    with pytest.raises(ActorUnavailable):
        ref.tell(Echo.echo, 1)
    with pytest.raises(ActorUnavailable):
        await anext(ref.stream(Echo.count, 1))


async def test_an_unknown_name_is_an_error_with_the_names_there_are(pair):
    await pair.spawn(Echo, name="worker.0")
    with pytest.raises(
        ActorNotFound, match=r'actors are: worker, worker.0; did you mean "worker"?'
    ) as caught:
        await pair.near.ref("wroker").ask("echo", 1)
    assert caught.value.executed is Executed.NEVER


async def test_an_ask_may_wait_for_the_next_incarnation(pair):
    ref = await pair.spawn(Echo)
    await pair.stop("a.0")
    waiting = asyncio.create_task(ref.options(on_down=OnDown.WAIT).ask(Echo.incarnation))
    stream = ref.options(on_down=OnDown.WAIT, deadline_s=10).stream(Echo.count, 2)
    streaming = asyncio.create_task(anext(stream))
    await turns(20)
    assert not waiting.done()
    await pair.spawn(Echo, incarnation=2)
    assert await waiting == ["a.0", 2]
    assert await streaming == 0
    await stream.aclose()


async def test_waiting_for_the_next_incarnation_ends_at_the_deadline(pair):
    ref = await pair.spawn(Echo)
    await pair.stop("a.0")
    with pytest.raises(ActorUnavailable) as caught:
        await ref.options(on_down=OnDown.WAIT, deadline_s=0.05).ask(Echo.echo, 1)
    assert caught.value.executed is Executed.NEVER


async def test_nothing_meant_for_an_incarnation_runs_in_its_successor(pair):
    """Even if the caller has not heard of the change."""
    ref = await pair.spawn(Gate)
    held = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: pair.actor().seen)
    queued = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(3)]
    await turns(5)
    await pair.far.stop_actor("a.0", StopReason.RESTART, grace_s=0)
    await pair.far.spawn(Gate, name="a.0", incarnation=2)
    results = await asyncio.gather(held, *queued, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["ActorStopped"] * 4
    assert pair.actor().seen == []


# -- cycles


async def test_an_actor_that_asks_itself_is_told_so_instead_of_hanging(pair):
    ref = await pair.spawn(Caller)
    with pytest.raises(CallCycle, match=r"a\.0 -> a\.0\.remaining would wait for itself") as caught:
        await ref.ask(Caller.itself)
    assert caught.value.executed is Executed.YES  # the handler of the outer message ran
    assert await ref.ask(Caller.remaining)


async def test_a_cycle_of_asks_is_named(pair):
    a, b, c = [await pair.spawn(Caller, name=f"{name}.0") for name in "abc"]
    with pytest.raises(CallCycle, match=r"a\.0 -> b\.0 -> c\.0 -> a\.0\.pass_around would wait"):
        await a.ask(Caller.pass_around, [b, c, a])
    with pytest.raises(CallCycle, match=r"b\.0 -> c\.0 -> b\.0\.pass_around would wait"):
        await a.ask(Caller.pass_around, [b, c, b])
    assert await a.ask(Caller.pass_around, [b, c]) == "end"


async def test_a_cycle_through_actors_of_two_processes_is_named(remote):
    far = await remote.spawn(Caller, name="far.0")
    near = await remote.spawn(Caller, name="near.0", on=remote.near)
    with pytest.raises(CallCycle, match=r"far\.0 -> near\.0 -> far\.0"):
        await far.ask(Caller.pass_around, [near, far])


async def test_an_actor_with_several_handlers_may_ask_itself(pair):
    class Several(Caller):
        concurrency = 2

    ref = await pair.spawn(Several)
    assert await ref.ask(Several.itself) > 0


async def test_a_cycle_that_ends_in_an_interleaving_method_is_none(pair):
    class Reflective(Gate):
        async def own_length(self) -> int:
            self.seen.append(1)
            return await self.context.ref.ask(Reflective.look)

    ref = await pair.spawn(Reflective)
    assert await ref.ask(Reflective.own_length) == 1


async def test_a_component_asks_its_other_instances_and_never_the_one_that_waits(pair):
    first = await pair.spawn(Caller, name="c.0")
    await pair.spawn(Caller, name="c.1")
    component = pair.near.ref("c", Caller)
    for _ in range(6):
        assert await first.options(deadline_s=5).ask(Caller.pass_on, component, "remaining") > 0


# -- at most once


async def test_an_ask_runs_at_most_once_whatever_happens_to_the_link(remote):
    """A retry is made only where the first try cannot have run."""
    ref = await remote.spawn(Gate)
    asks = [asyncio.create_task(ref.options(retries=5).ask(Gate.note, n)) for n in range(50)]
    await turns(random.randrange(8))
    for origin in remote.origins():
        origin.link.close()
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert all(n == result or isinstance(result, ActorUnavailable) for n, result in enumerate(results))
    await in_time(ref.ask(Gate.note, "last"))
    seen = remote.actor().seen
    assert len(seen) == len(set(seen))
    assert {n for n, result in enumerate(results) if n == result} <= set(seen)


async def test_a_broken_link_fails_what_was_open_at_once_and_the_next_ask_dials_again(remote):
    ref = await remote.spawn(Wide)
    asks = [asyncio.create_task(ref.ask(Gate.hold, n)) for n in range(20)]
    stream = ref.stream(Gate.trickle, 3)
    assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
    await until(lambda: len(remote.actor().seen) == 20)
    for origin in remote.origins():
        origin.link.close()
    results = await asyncio.gather(*asks, return_exceptions=True)
    with pytest.raises(ActorUnavailable, match="after 3 items") as caught:
        await anext(stream)
    assert [(type(r), r.executed, r.actor) for r in results] == [
        (ActorUnavailable, Executed.MAYBE, "a.0")
    ] * 20
    assert (caught.value.items, caught.value.executed) == (3, Executed.MAYBE)
    await until(lambda: len(remote.actor().cancelled) == 21)
    assert await ref.ask(Gate.note, 1) == 1
