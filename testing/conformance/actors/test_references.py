"""References: names that can be sent, that pick an instance per message, and that outlive restarts."""

import asyncio
import collections
import math
import pickle

import pytest

from callboard.actors.errors import ActorStopped, ActorUnavailable
from callboard.actors.policy import Executed, StopReason
from callboard.actors.ref import Ref

from ..network import until
from .classes import Caller, Echo, Gate
from .pairs import drain, turns


async def three(pair, cls=Echo):
    """Three instances of a component, on two nodes."""
    homes = [pair.far, pair.near, pair.far]
    for index, home in enumerate(homes):
        await pair.spawn(cls, name=f"c.{index}", on=home)
    return pair.near.ref("c", cls)


async def test_a_component_takes_turns_among_its_instances(pair):
    ref = await three(pair)
    asked = collections.Counter([(await ref.ask(Echo.incarnation))[0] for _ in range(30)])
    assert asked == {"c.0": 10, "c.1": 10, "c.2": 10}
    assert await ref.instance(2).ask(Echo.incarnation) == ["c.2", 1]
    assert [one.name for one in ref.instances()] == ["c.0", "c.1", "c.2"]


async def test_an_instance_that_is_down_is_passed_by(pair):
    ref = await three(pair)
    await pair.stop("c.0")
    assert {(await ref.ask(Echo.incarnation))[0] for _ in range(10)} == {"c.1", "c.2"}
    assert [one.name for one in ref.instances()] == ["c.1", "c.2"]
    with pytest.raises(ActorUnavailable):
        await ref.instance(0).ask(Echo.echo, 1)


async def test_an_ask_that_did_not_run_is_made_again_of_another_instance(pair):
    """The caller has not heard yet that one is stopped; what it refuses goes elsewhere, and nothing runs twice."""
    for index in range(2):
        await pair.spawn(Gate, name=f"c.{index}")
    component = pair.near.ref("c", Gate)
    held = [asyncio.create_task(pair.near.ref(f"c.{index}", Gate).ask(Gate.hold, "h")) for index in range(2)]
    actors = [pair.actor("c.0"), pair.actor("c.1")]
    await until(lambda: all(actor.seen for actor in actors))
    asks = [asyncio.create_task(component.ask(Gate.note, n)) for n in range(10)]
    await until(lambda: all(len(pair.cell(f"c.{index}").mailbox) == 5 for index in range(2)))
    await pair.far.stop_actor("c.0", StopReason.COMMANDED, grace_s=0)
    actors[1].gate.set()
    assert await asyncio.gather(*asks) == list(range(10))
    assert actors[0].seen == ["h"]
    assert sorted(actors[1].seen[1:]) == list(range(10))
    await asyncio.gather(*held, return_exceptions=True)


async def test_an_ask_that_may_have_run_is_made_again_only_if_that_does_no_harm(remote):
    ref = await remote.spawn(Gate)
    plain = asyncio.create_task(ref.options(retries=3).ask(Gate.hold, "plain"))
    await until(lambda: remote.actor().seen == ["plain"])
    repeatable = asyncio.create_task(ref.ask(Gate.repeatable, "repeatable"))
    never = asyncio.create_task(ref.options(retries=0).ask(Gate.repeatable, "once"))
    await until(lambda: len(remote.cell().mailbox) == 2)
    for origin in remote.origins():
        origin.link.close()
    remote.actor().gate.set()
    with pytest.raises(ActorUnavailable) as caught:
        await plain
    assert caught.value.executed is Executed.MAYBE
    with pytest.raises(ActorUnavailable):
        await never
    assert await repeatable == "repeatable"


async def test_a_retry_has_the_arguments_of_the_first_try(pair):
    """By name, too, although the first try may have looked at them in the same process."""

    class Stops(Gate):
        async def with_names(self, number: int) -> int:
            self.seen.append(number)
            if self.context.index == 0:
                await self.gate.wait()
            return number

    Stops.with_names.__callboard_idempotent__ = True
    for index in range(2):
        await pair.spawn(Stops, name=f"c.{index}")
    component = pair.near.ref("c", Stops)
    asks = [asyncio.create_task(component.ask(Stops.with_names, number=n)) for n in range(4)]
    await until(lambda: pair.actor("c.0").seen)
    await pair.stop("c.0", grace_s=0)
    assert await asyncio.gather(*asks) == [0, 1, 2, 3]


async def test_a_stream_that_has_not_begun_goes_to_another_instance(pair):
    for index in range(2):
        await pair.spawn(Gate, name=f"c.{index}")
    held = asyncio.create_task(pair.near.ref("c.0", Gate).ask(Gate.hold, "h"))
    await until(lambda: pair.actor("c.0").seen)
    streams = [
        asyncio.create_task(drain(pair.near.ref("c", Gate).stream(Gate.note_stream, n))) for n in range(4)
    ]
    await until(lambda: len(pair.cell("c.0").mailbox) == 2)
    await pair.stop("c.0", grace_s=0)
    assert await asyncio.gather(*streams) == [([n], None) for n in range(4)]
    with pytest.raises(ActorStopped):
        await held


async def test_a_reference_finds_the_next_incarnation(pair):
    ref = await pair.spawn(Echo)
    assert await ref.ask(Echo.incarnation) == ["a.0", 1]
    await pair.stop("a.0")
    await pair.spawn(Echo, incarnation=2)
    assert await ref.ask(Echo.incarnation) == ["a.0", 2]


# -- in messages


async def test_a_reference_in_a_message_is_one_where_it_arrives(pair):
    caller = await pair.spawn(Caller, name="caller.0")
    echo = await pair.spawn(Echo, name="echo.0", on=pair.near)
    assert await caller.ask(Caller.pass_on, echo, "echo", 5) == 5
    refs = await caller.ask(Caller.own_name, echo)
    assert refs == {"mine": caller, "yours": echo}
    assert await refs["yours"].ask(Echo.echo, 1) == 1


async def test_references_inside_values_and_items_arrive_too(pair):
    echo = await pair.spawn(Echo, name="echo.0")
    value = {"all": [echo, (echo, {"deep": echo})], "set": {echo}}
    assert await echo.ask(Echo.echo, value) == value
    (item,) = [item async for item in echo.stream(Echo.items, [value])]
    assert item == value
    assert isinstance(item["all"][0], Ref)


async def test_an_actor_gives_its_own_reference_to_others(pair):
    first = await pair.spawn(Caller, name="first.0")
    second = await pair.spawn(Echo, name="second.0")
    refs = await first.ask(Caller.own_name, second)
    assert refs["mine"].name == "first.0"
    assert await refs["mine"].ask("remaining")


async def test_a_reference_is_not_unpickled_outside_a_node(pair):
    ref = await pair.spawn(Echo)
    data = pickle.dumps(ref)
    with pytest.raises(RuntimeError, match=r"the reference to a\.0 was unpickled outside a callboard node"):
        pickle.loads(data)
    with pair.near.resolving():
        assert pickle.loads(data) == ref


# -- options and other spellings


async def test_options_make_another_reference_and_keep_what_is_not_given(pair):
    ref = await pair.spawn(Echo, name="c.0")
    component = pair.near.ref("c", Echo)
    quick = component.options(deadline_s=0.5).options(retries=1)
    assert (quick._deadline_s, quick._retries, component._deadline_s) == (0.5, 1, None)
    assert quick.instance(0)._deadline_s == 0.5
    assert quick == component
    assert hash(quick) == hash(component)
    assert quick != ref
    assert await quick.ask(Echo.echo, 1) == 1
    assert await ref.options(deadline_s=math.inf).ask(Echo.echo, 1) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"deadline_s": 0}, "deadline_s is 0; it must be a number above 0"),
        ({"deadline_s": "1"}, "deadline_s is '1'; it must be a number above 0"),
        ({"deadline_s": -1.0}, "deadline_s is -1.0"),
        ({"deadline_s": math.nan}, "deadline_s is nan"),
        ({"retries": -1}, "retries is -1; it must be a whole number, 0 or more"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"on_down": "wait"}, "on_down is 'wait'; it must be OnDown.FAIL or OnDown.WAIT"),
    ],
)
async def test_options_out_of_range_are_refused(pair, options, text):
    with pytest.raises(ValueError, match=text):
        pair.near.ref("a.0").options(**options)


async def test_a_proxy_asks_and_streams_as_calls_are_written(pair):
    ref = await pair.spawn(Echo)
    assert await ref.proxy.echo(5) == 5
    assert await ref.proxy.named(1, second="b") == [1, "b", 3.0]
    assert [item async for item in ref.proxy.count(3)] == [0, 1, 2]


async def test_the_same_object_arrives_within_one_process(pair):
    """Between processes an equal one; in one process nothing is copied."""
    here = await pair.spawn(Echo, name="here.0", on=pair.near)
    value = {"a": [1, 2, {"b": bytearray(3)}]}
    assert await here.ask(Echo.echo, value) is value
    await turns(1)
    (item,) = [item async for item in here.stream(Echo.items, [value])]
    assert item is value
