"""What a node remembers of names that came and went is bounded."""

import asyncio
import gc

import pytest

from callboard.actors.departed import MOST
from callboard.actors.errors import ActorNotFound, ActorUnavailable
from callboard.actors.node import Node
from callboard.actors.policy import Executed
from callboard.actors.target import KEPT

from ..network import until
from .classes import Gate
from .pairs import outcomes


async def test_hundreds_of_names_that_come_and_go_leave_bounded_traces(pair):
    names = [f"job-{number}.0" for number in range(MOST + 300)]
    for first in range(0, len(names), 50):
        some = names[first : first + 50]
        ref, *_ = await asyncio.gather(*(pair.spawn(Gate, name=name) for name in some))
        assert await ref.ask(Gate.note, first) == first
        await asyncio.gather(*(pair.stop(name) for name in some))
    for node in {pair.near, pair.far}:
        assert len(node.directory._down) == MOST
        assert not node.directory._components
        assert len(node.targets) <= KEPT + 1  # and the one of the reference that we hold
        assert all(not peer.outlets for peer in node._peers.values())
        assert not node.cells
    assert all(not origin.inlets for origin in pair.origins())
    with pytest.raises(ActorUnavailable) as caught:
        await ref.ask(Gate.note, 1)
    assert (caught.value.incarnation, caught.value.executed) == (1, Executed.NEVER)
    with pytest.raises(ActorNotFound):
        await pair.near.ref("job-0.0").ask("note", 1)


async def test_a_name_has_one_target_as_long_as_a_reference_has_it(pair):
    held = await pair.spawn(Gate)
    for number in range(2 * KEPT):
        pair.near.ref(f"other-{number}")
    assert pair.near.ref("a.0")._target is held._target
    del held
    gc.collect()
    assert await pair.near.ref("a.0", Gate).ask(Gate.note, 1) == 1
    assert len(pair.near.targets) <= KEPT + 1


async def test_a_node_that_closes_has_one_grace_for_all_its_actors(pair):
    graces = []

    class Recording(Node):
        async def stop_actor(self, name, reason, *, grace_s=5.0):
            graces.append((name, grace_s))
            await super().stop_actor(name, reason, grace_s=grace_s)

    node = Recording(name="many", settings=pair.near.settings)
    await node.start()
    pair.nodes.append(node)
    refs = [await node.spawn(Gate, name=f"g.{number}") for number in range(4)]
    asks = [asyncio.create_task(ref.ask(Gate.hold, 1)) for ref in refs]
    await until(lambda: all(cell.running for cell in node.cells.values()))
    await node.close(grace_s=0.2)
    assert [name for name, _ in graces] == ["g.3", "g.2", "g.1", "g.0"]
    assert 0.1 < graces[0][1] <= 0.2
    assert sum(grace_s for _, grace_s in graces) < 0.3
    assert {error.executed for error in await outcomes(*asks)} == {Executed.YES}
