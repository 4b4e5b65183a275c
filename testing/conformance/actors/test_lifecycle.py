"""Actors and nodes from their start to their stop: what is answered, what is called, and that nothing is left."""

import asyncio
import gc
import threading
import weakref

import pytest

from callboard.actors.actor import Actor
from callboard.actors.errors import ActorStopped, ActorUnavailable, StartFailed
from callboard.actors.policy import Executed, MailboxPolicy, State, StopReason

from ..network import PATIENCE_S, until
from .classes import Caller, Echo, Gate, Wide
from .pairs import drain, in_time, outcomes, turns


async def test_an_actor_is_ready_when_its_start_hook_has_returned(pair):
    class Slow(Echo):
        async def on_start(self) -> None:
            await turns(20)
            self.ready = True

        async def is_ready(self) -> bool:
            return self.ready

    ref = await pair.spawn(Slow)
    assert await ref.ask(Slow.is_ready)


async def test_messages_that_come_during_the_start_wait_for_its_end(pair):
    """An interleaving one, too: there is no actor yet that could answer."""

    class Starting(Gate):
        async def on_start(self) -> None:
            await begin.wait()
            self.seen.append("started")

    begin = asyncio.Event()
    spawning = asyncio.create_task(pair.far.spawn(Starting, name="a.0"))
    await turns(3)
    (cell,) = pair.far.cells.values()
    assert cell.state is State.STARTING
    for node in pair.nodes:
        node.add_location(cell.location)
    ref = pair.near.ref("a.0", Starting)
    asks = [asyncio.create_task(ref.ask(Gate.note, 1)), asyncio.create_task(ref.ask(Gate.look))]
    await until(lambda: len(cell.mailbox) == 2)
    begin.set()
    await spawning
    assert await asyncio.gather(*asks) == [1, 2]
    assert cell.actor.seen == ["started", 1]


class BadInit(Actor):
    def __init__(self) -> None:
        raise ValueError("bad init")


class BadStart(Gate):
    async def on_start(self) -> None:
        raise ValueError("bad start")


class Arguments(Actor):
    def __init__(self, size: int) -> None:
        self.size = size


@pytest.mark.parametrize(
    ("cls", "args", "text"),
    [
        (BadInit, (), "it did not start: ValueError: bad init"),
        (BadStart, (), "it did not start: ValueError: bad start"),
        (Arguments, (), "TypeError: .*missing 1 required positional argument: 'size'"),
        (Arguments, (1, 2), "TypeError: .*takes 2 positional arguments"),
        (object, (), "is not a class that derives from callboard.Actor"),
        (
            type("Zero", (Actor,), {"concurrency": 0}),
            (),
            "Zero.concurrency is 0; it must be a whole number above 0",
        ),
    ],
)
async def test_a_start_that_fails_says_why_and_leaves_nothing(pair, cls, args, text):
    with pytest.raises(StartFailed, match=text) as caught:
        await pair.far.spawn(cls, *args, name="a.0")
    assert caught.value.actor == "a.0"
    if "did not start" in text:
        assert "Traceback" in caught.value.remote_traceback
    assert not pair.far.cells
    assert pair.far.location("a.0") is None
    await pair.spawn(Echo)  # the name is free


async def test_a_name_is_taken_once(pair):
    await pair.spawn(Echo)
    with pytest.raises(StartFailed, match="runs in this process already"):
        await pair.far.spawn(Echo, name="a.0")
    assert await pair.near.ref("a.0", Echo).ask(Echo.echo, 1) == 1


async def test_an_actor_knows_itself_before_its_constructor_runs(pair):
    class Knows(Actor):
        def __init__(self) -> None:
            context = self.context
            self.facts = [context.name, context.component, context.index, context.incarnation, context.node]

        async def known(self) -> list:
            return self.facts

    ref = await pair.spawn(Knows, name="some.7", incarnation=3)
    assert await ref.ask(Knows.known) == ["some.7", "some", 7, 3, pair.far.name]


async def test_a_stop_lets_run_what_runs_and_answers_what_waits(pair):
    ref = await pair.spawn(Gate)
    actor = pair.actor()
    running = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: actor.seen == [1])
    queued = [asyncio.create_task(ref.ask(Gate.note, n)) for n in range(5)]
    stream = asyncio.create_task(anext(ref.stream(Gate.endless)))
    await until(lambda: len(pair.cell().mailbox) == 6)
    stopping = asyncio.create_task(pair.stop("a.0"))
    results = await asyncio.gather(*queued, stream, return_exceptions=True)
    assert [(type(r), r.executed, r.actor, r.incarnation) for r in results] == [
        (ActorStopped, Executed.NEVER, "a.0", 1)
    ] * 6
    assert not running.done()
    actor.gate.set()
    assert await running == 1
    await stopping
    assert actor.seen == [1]
    assert actor.stops == [StopReason.COMMANDED]


async def test_a_stop_cancels_what_does_not_end_in_time(pair):
    ref = await pair.spawn(Wide)
    actor = pair.actor()
    asks = [asyncio.create_task(ref.ask(Gate.hold, n)) for n in range(3)]
    asks.append(asyncio.create_task(ref.ask(Gate.beside, 3)))
    asks.append(asyncio.create_task(ref.ask(Gate.turn_into_error, 4)))
    await until(lambda: len(actor.seen) == 5)
    await pair.stop("a.0", grace_s=0.05)
    *results, turned = await asyncio.gather(*asks, return_exceptions=True)
    assert [(type(r), r.executed) for r in results] == [(ActorStopped, Executed.YES)] * 4
    assert str(turned) == "turned"
    assert sorted(actor.cancelled) == [0, 1, 2, 3, 4]
    assert actor.stops == [StopReason.COMMANDED]


async def test_messages_that_come_during_the_stop_are_refused(pair):
    ref = await pair.spawn(Gate)
    actor = pair.actor()
    running = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: actor.seen == [1])
    stopping = asyncio.create_task(pair.far.stop_actor("a.0", StopReason.COMMANDED))
    await turns(3)
    results = await asyncio.gather(
        *(ref.options(retries=0).ask(method, 2) for method in ("note", "beside")), return_exceptions=True
    )
    assert all(isinstance(r, ActorStopped | ActorUnavailable) for r in results)
    assert {r.executed for r in results} == {Executed.NEVER}
    actor.gate.set()
    assert await running == 1
    await stopping


async def test_whoever_stops_an_actor_twice_waits_for_its_end(pair):
    class Careful(Gate):
        async def on_stop(self, reason: StopReason) -> None:
            await self.gate.wait()
            self.stops.append(reason)

    await pair.spawn(Careful)
    actor = pair.actor()
    stops = [
        asyncio.create_task(pair.far.stop_actor("a.0", reason))
        for reason in (StopReason.COMMANDED, StopReason.RESTART)
    ]
    await turns(20)
    assert not any(stop.done() for stop in stops)
    actor.gate.set()
    await asyncio.gather(*stops)
    assert actor.stops == [StopReason.COMMANDED]
    assert not pair.far.cells
    await pair.far.stop_actor("a.0", StopReason.COMMANDED)  # there is none: nothing happens


async def test_an_actor_that_is_stopped_while_it_starts_does_not_come_up(pair):
    class Starting(Gate):
        async def on_start(self) -> None:
            await begin.wait()

    begin = asyncio.Event()
    spawning = asyncio.create_task(pair.far.spawn(Starting, name="a.0"))
    await turns(3)
    await pair.far.stop_actor("a.0", StopReason.SHUTDOWN)
    begin.set()
    with pytest.raises(StartFailed, match="it was stopped while it started"):
        await spawning
    assert not pair.far.cells
    assert pair.far.directory.get("a.0") is None


async def test_a_stop_hook_that_fails_or_hangs_ends_with_the_stop(pair, caplog):
    class Fails(Gate):
        async def on_stop(self, reason: StopReason) -> None:
            raise ValueError("in the hook")

    class Hangs(Gate):
        async def on_stop(self, reason: StopReason) -> None:
            await asyncio.Event().wait()

    await pair.spawn(Fails, name="f.0")
    await pair.spawn(Hangs, name="h.0")
    await pair.stop("f.0")
    await pair.stop("h.0", grace_s=0.01)
    assert "f.0: on_stop failed" in caplog.text
    assert "h.0: on_stop failed" in caplog.text
    assert not pair.far.cells


async def test_concurrency_is_how_many_handlers_run_at_once(pair):
    class Several(Gate):
        concurrency = 3

    ref = await pair.spawn(Several)
    asks = [asyncio.create_task(ref.ask(Gate.hold, n)) for n in range(10)]
    await until(lambda: len(pair.cell().mailbox) == 7)
    await turns(20)
    assert (pair.actor().seen, pair.cell().running) == ([0, 1, 2], 3)
    pair.actor().gate.set()
    assert await asyncio.gather(*asks) == list(range(10))
    assert pair.actor().seen == list(range(10))


async def test_a_sequential_actor_handles_one_message_at_a_time(pair):
    class Alone(Wide):
        concurrency = 1
        running = most = 0

        async def work(self) -> None:
            self.running += 1
            self.most = max(self.most, self.running)
            await turns(2)
            self.running -= 1

        async def items(self):
            for number in range(3):
                await self.work()
                yield number

    ref = await pair.spawn(Alone)

    async def read():
        return [item async for item in ref.stream(Alone.items)]

    await asyncio.gather(*(ref.ask(Alone.work) for _ in range(30)), *(read() for _ in range(10)))
    assert pair.actor().most == 1


async def test_an_interleaving_method_runs_beside_what_the_actor_handles(pair):
    ref = await pair.spawn(Gate)
    held = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: pair.actor().seen == [1])
    queued = asyncio.create_task(ref.ask(Gate.note, 2))
    assert await ref.ask(Gate.look) == 1
    assert not queued.done()
    pair.actor().gate.set()
    assert await asyncio.gather(held, queued) == [1, 2]


async def test_blocking_methods_of_different_actors_run_at_once(pair):
    barrier = threading.Barrier(2, timeout=PATIENCE_S)

    class Meets(Gate):
        def meet(self) -> int:
            return barrier.wait()

        meet.__callboard_blocking__ = True

    refs = [await pair.spawn(Meets, name=f"m.{n}") for n in range(2)]
    assert sorted(await asyncio.gather(*(ref.ask("meet") for ref in refs))) == [0, 1]


async def test_what_a_handler_leaves_running_does_not_count_as_the_next_message(pair):
    """A task that outlives its message has its deadline no more, and may ask its own actor."""

    class Leaves(Caller):
        async def leave(self) -> None:
            async def later():
                await go.wait()
                return await self.context.ref.ask(Caller.remaining)

            tasks.append(asyncio.create_task(later()))

    go, tasks = asyncio.Event(), []
    ref = await pair.spawn(Leaves)
    await ref.options(deadline_s=5).ask(Leaves.leave)
    go.set()
    assert await tasks[0] > 5


async def test_spawning_within_a_handler_keeps_its_deadline(pair):
    class Parent(Caller):
        async def spawn(self) -> float:
            await pair.far.spawn(Gate, name="child.0")
            await pair.far.stop_actor("child.0", StopReason.COMMANDED)
            return await self.remaining()

    ref = await pair.spawn(Parent)
    assert await ref.options(deadline_s=5).ask(Parent.spawn) <= 5


async def test_a_closed_node_has_answered_everybody_and_leaves_no_task(pair):
    ref = await pair.spawn(Wide, mailbox=MailboxPolicy(messages=4))
    other = await pair.spawn(Gate, name="b.0")
    asks = [asyncio.create_task(ref.ask(Gate.hold, n)) for n in range(3)]
    asks += [asyncio.create_task(other.ask(Gate.hold, n)) for n in range(20)]
    asks += [asyncio.create_task(other.ask(Gate.hold_thread, 1))]
    streams = [ref.stream(Gate.trickle, 2), ref.stream(Gate.endless)]
    for stream in streams:
        await anext(stream)
    telling = asyncio.create_task(flood(other))
    await turns(50)
    await pair.far.close(grace_s=0.05)
    if pair.remote:  # what is told to who is not known to be down is accepted, and counted
        pair.near.node_down(pair.far.id, "it was closed")
    results = await outcomes(*asks, telling)
    assert all(isinstance(r, ActorStopped | ActorUnavailable) for r in results), results
    for stream in streams:
        _, error = await in_time(drain(stream))
        assert isinstance(error, ActorStopped | ActorUnavailable)
    assert not pair.far.cells
    with pytest.raises(StartFailed, match="this node was closed"):
        await pair.far.spawn(Echo, name="c.0")
    await pair.far.close()


async def flood(ref):
    while True:
        await ref.tell_wait(Gate.note, 1)


async def test_a_caller_s_node_that_closes_ends_its_own_asks(remote):
    ref = await remote.spawn(Gate)
    asks = [asyncio.create_task(ref.ask(Gate.hold, n)) for n in range(3)]
    await until(lambda: remote.actor().seen == [0])
    await remote.near.close()
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert {type(r) for r in results} == {ActorUnavailable}
    with pytest.raises(ActorUnavailable):
        await ref.ask(Gate.note, 1)


async def test_a_node_said_to_be_down_fails_everything_on_it_at_once(remote):
    ref = await remote.spawn(Gate)
    asks = [asyncio.create_task(ref.ask(Gate.hold, n)) for n in range(3)]
    stream = asyncio.create_task(anext(ref.stream(Gate.trickle, 0)))
    await until(lambda: remote.actor().seen == [0])
    remote.near.node_down(remote.far.id, "its process was killed")
    results = await asyncio.gather(*asks, stream, return_exceptions=True)
    assert [(type(r), r.executed) for r in results] == [(ActorUnavailable, Executed.MAYBE)] * 4
    with pytest.raises(ActorUnavailable, match="its process was killed") as caught:
        await ref.ask(Gate.note, 1)
    assert caught.value.executed is Executed.NEVER
    remote.far.node_down(remote.near.id, "its process was killed")
    await until(lambda: remote.actor().cancelled == [0] and not remote.cell().running)


async def test_an_address_where_nobody_is_fails_its_asks(remote):
    ref = await remote.spawn(Echo)
    await remote.far.close()
    with pytest.raises(ActorUnavailable) as caught:
        await ref.ask(Echo.echo, 1)
    assert caught.value.executed is Executed.NEVER
    with pytest.raises(ActorUnavailable):
        await anext(ref.stream(Echo.count, 1))


async def test_a_link_that_breaks_in_the_moment_it_is_made_fails_its_asks(remote):
    ref = await remote.spawn(Echo)
    link_up = remote.far.link_up

    def hang_up(link):
        link_up(link)
        link.close()

    remote.far.link_up = hang_up
    results = await outcomes(ref.ask(Echo.echo, 1), anext(ref.stream(Echo.count, 1)))
    assert [type(result) for result in results] == [ActorUnavailable] * 2
    remote.far.link_up = link_up
    assert await ref.ask(Echo.echo, 1) == 1


async def test_a_stopped_actor_is_not_kept_by_the_links_of_its_callers(pair):
    ref = await pair.spawn(Gate)
    await ref.ask(Gate.note, 1)
    gone = weakref.ref(pair.actor())
    await pair.stop("a.0")
    gc.collect()
    assert gone() is None
    assert "a.0" in repr(ref)


async def test_what_everything_is_doing_can_be_seen(pair):
    ref = await pair.spawn(Gate)
    held = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: pair.actor().seen == [1])
    queued = asyncio.create_task(ref.ask(Gate.note, 2))
    await until(lambda: len(pair.cell().mailbox) == 1)
    statistics = pair.far.statistics()["actors"]["a.0"]
    assert statistics["state"] == "ready"
    assert (statistics["mailbox"], statistics["running"], statistics["handled"]) == (1, 1, 0)
    assert pair.near.statistics()["open_asks"] == 2
    assert "1 wait, 1 run" in repr(pair.cell())
    pair.actor().gate.set()
    await asyncio.gather(held, queued)
    statistics = pair.far.statistics()["actors"]["a.0"]
    assert (statistics["mailbox"], statistics["running"], statistics["handled"]) == (0, 0, 2)


class AwaitsWhatItCancels(Actor):
    async def on_stop(self, reason):
        task = asyncio.ensure_future(asyncio.sleep(PATIENCE_S))
        task.cancel()
        await task

    async def breaks(self):
        raise ValueError("broken")


async def test_a_stop_hook_that_awaits_what_it_cancelled_does_not_keep_others_from_stopping(pair, caplog):
    await pair.far.spawn(AwaitsWhatItCancels, name="first")
    await pair.far.spawn(AwaitsWhatItCancels, name="second")
    await pair.far.close(grace_s=1)
    assert not pair.far.cells
    assert caplog.text.count("on_stop failed") == 2


async def test_a_failure_is_reported_also_if_the_stop_hook_awaits_what_it_cancelled(pair, caplog):
    failed = asyncio.get_running_loop().create_future()
    pair.far.on_actor_failed = lambda name, incarnation, error: failed.set_result((name, str(error)))
    ref = await pair.spawn(AwaitsWhatItCancels, name="breaks.0")
    ref.tell(AwaitsWhatItCancels.breaks)
    assert await in_time(failed) == ("breaks.0", "broken")
