"""The hooks of an actor's life: ready when others can reach it, drain when its stop begins."""

import asyncio

import pytest

from callboard.actors.errors import ActorStopped, ActorUnavailable
from callboard.actors.policy import Executed, State, StopReason

from ..network import until
from .classes import Gate
from .pairs import in_time, outcomes, turns


class Lively(Gate):
    """Notes each step of its life, and is held where it is told to."""

    def __init__(self, *held: str) -> None:
        super().__init__()
        self.held = held
        self.draining = asyncio.Event()

    async def step(self, what: str) -> None:
        self.seen.append(what)
        if what in self.held:
            await self.gate.wait()

    async def on_start(self) -> None:
        await self.step("start")

    async def on_ready(self) -> None:
        await self.step("ready")

    async def on_drain(self) -> None:
        self.draining.set()
        await self.step("drain")

    async def on_stop(self, reason: StopReason) -> None:
        await self.step("stop")

    async def finish_when_draining(self) -> str:
        self.seen.append("begun")
        await self.draining.wait()
        return "finished"


async def test_the_ready_hook_runs_after_the_start_and_before_every_message(pair):
    ref = await pair.spawn(Lively, "ready")
    actor = pair.actor()
    asked = asyncio.create_task(ref.ask(Gate.note, 1))  # it can be reached, and waits its turn
    await until(lambda: actor.seen == ["start", "ready"] and len(pair.cell().mailbox) == 1)
    actor.gate.set()
    assert await asked == 1
    assert actor.seen == ["start", "ready", 1]


async def test_what_came_during_the_start_waits_for_the_ready_hook(pair):
    class Starting(Lively):
        async def on_start(self) -> None:
            await begin.wait()

    begin = asyncio.Event()
    spawning = asyncio.create_task(pair.far.spawn(Starting, name="a.0"))
    await turns(3)
    (cell,) = pair.far.cells.values()
    for node in pair.nodes:
        node.add_location(cell.location)
    asked = asyncio.create_task(pair.near.ref("a.0", Starting).ask(Gate.note, 1))
    await until(lambda: len(cell.mailbox) == 1)
    begin.set()
    await spawning
    assert await asked == 1
    assert cell.actor.seen == ["ready", 1]


async def test_a_ready_hook_may_call_others_who_call_back(pair):
    class Greets(Gate):
        async def on_ready(self) -> None:
            other.tell(Gate.note, self.context.name)

    other = await pair.spawn(Gate, name="other.0")
    await pair.spawn(Greets)
    await until(lambda: pair.actor("other.0").seen == ["a.0"])


async def test_what_the_ready_hook_raises_fails_the_actor(pair):
    class Breaks(Gate):
        async def on_ready(self) -> None:
            raise ValueError("not ready after all")

    failed = asyncio.get_running_loop().create_future()
    pair.far.on_actor_failed = lambda name, incarnation, error: failed.set_result((name, str(error)))
    await pair.far.spawn(Breaks, name="a.0")
    assert await in_time(failed) == ("a.0", "not ready after all")
    assert pair.far.location("a.0") is None


async def test_a_stop_does_not_wait_for_a_ready_hook_beyond_its_grace(pair):
    await pair.spawn(Lively, "ready")
    actor = pair.actor()
    await until(lambda: actor.seen == ["start", "ready"])
    await pair.stop("a.0", grace_s=0.02)
    assert actor.seen == ["start", "ready", "drain", "stop"]


async def test_the_drain_hook_comes_first_in_a_stop_while_handlers_run_and_messages_come(pair):
    ref = await pair.spawn(Lively, "drain")
    actor = pair.actor()
    running = asyncio.create_task(ref.ask(Lively.finish_when_draining))
    await until(lambda: "begun" in actor.seen)
    stopping = asyncio.create_task(pair.stop("a.0", grace_s=30))
    assert await running == "finished"
    assert await ref.ask(Gate.note, "still served") == "still served"
    assert pair.cell().state is State.READY
    actor.gate.set()
    await stopping
    assert actor.seen == ["start", "ready", "begun", "drain", "still served", "stop"]


async def test_a_stop_without_grace_and_a_failure_do_not_drain(pair):
    class Breaks(Lively):
        async def fail(self) -> None:
            raise ValueError("failed")

    await pair.spawn(Lively)
    actor = pair.actor()
    await until(lambda: "ready" in actor.seen)
    await pair.stop("a.0", grace_s=0)
    failed = asyncio.get_running_loop().create_future()
    pair.far.on_actor_failed = lambda *facts: failed.set_result(facts)
    ref = await pair.spawn(Breaks, name="b.0")
    breaks = pair.actor("b.0")
    ref.tell(Breaks.fail)
    await in_time(failed)
    assert [actor.seen, breaks.seen] == [["start", "ready", "stop"]] * 2


async def test_a_drain_hook_that_hangs_or_fails_ends_with_the_grace_and_the_stop_goes_on(pair, caplog):
    class Fails(Lively):
        async def on_drain(self) -> None:
            raise ValueError("in the hook")

    for name, cls in (("hangs.0", Lively), ("fails.0", Fails)):
        await pair.spawn(cls, "drain", name=name)
        actor = pair.actor(name)
        await until(lambda actor=actor: "ready" in actor.seen)
        await pair.stop(name, grace_s=0.05)
        assert actor.seen[-1] == "stop"
        assert f"{name}: on_drain failed" in caplog.text
    assert not pair.far.cells


async def test_a_second_stop_without_grace_ends_the_drain(pair):
    ref = await pair.spawn(Lively, "drain")
    actor = pair.actor()
    running = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: 1 in actor.seen)
    first = asyncio.create_task(pair.far.stop_actor("a.0", StopReason.COMMANDED, grace_s=600))
    await until(lambda: "drain" in actor.seen)
    await in_time(pair.far.stop_actor("a.0", StopReason.SHUTDOWN, grace_s=0))
    await in_time(first)
    (error,) = await outcomes(running)
    assert isinstance(error, ActorStopped | ActorUnavailable)
    assert error.executed is Executed.YES
    assert actor.seen == ["start", "ready", 1, "drain", "stop"]
    assert not pair.far.cells


async def test_several_stops_at_once_drain_once_and_all_wait_for_it(pair):
    await pair.spawn(Lively, "drain")
    actor = pair.actor()
    await until(lambda: "ready" in actor.seen)
    stops = [
        asyncio.create_task(pair.far.stop_actor("a.0", StopReason.COMMANDED, grace_s=600)) for _ in range(3)
    ]
    await until(lambda: "drain" in actor.seen)
    await turns(10)
    assert pair.cell().state is State.READY
    actor.gate.set()
    await in_time(asyncio.gather(*stops))
    assert actor.seen == ["start", "ready", "drain", "stop"]


@pytest.mark.parametrize("name", ["on_ready", "on_down", "on_drain"])
async def test_hooks_are_no_messages(pair, name):
    ref = await pair.spawn(Lively)
    (error,) = await outcomes(ref.ask(name))
    assert "the hooks on_... are private" in str(error)
