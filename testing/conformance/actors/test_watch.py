"""Death watch: exactly one `Down` for each watch, whatever happens to the target and in which order."""

import asyncio
import gc
import itertools

import pytest

from callboard.actors.actor import Actor
from callboard.actors.node import Node
from callboard.actors.policy import DownKind, StopReason
from callboard.actors.ref import Down

from ..network import PATIENCE_S, until
from .classes import Echo, Gate
from .pairs import LOCAL, in_time, turns


class Watcher(Gate):
    """Watches whom it is told to, and keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.downs: list[Down] = []
        self.watches = []

    async def on_down(self, down: Down) -> None:
        self.seen.append("down")
        self.downs.append(down)

    async def watch(self, ref, times: int = 1) -> None:
        for _ in range(times):
            self.watches.append(self.context.watch(ref))

    async def unwatch(self) -> None:
        for watch in self.watches:
            watch.cancel()
            watch.cancel()


async def watcher(pair, cls=Watcher):
    """An actor of the near node, and a reference to it there."""
    await pair.near.spawn(cls, name="watcher.0")
    return pair.near.ref("watcher.0", cls), pair.actor("watcher.0")


def facts(down):
    return down.name, down.incarnation, down.kind


async def test_a_watcher_hears_once_that_its_target_was_stopped(pair):
    ref = await pair.spawn(Echo, incarnation=3)
    asker, actor = await watcher(pair)
    await asker.ask(Watcher.watch, ref)
    await pair.stop("a.0")
    await until(lambda: actor.downs)
    await turns(20)
    (down,) = actor.downs
    assert facts(down) == ("a.0", 3, DownKind.STOPPED if pair.plane == LOCAL else DownKind.UNKNOWN)
    assert "stopped" in down.reason
    assert down.ref == ref
    assert len(pair.near.watches) == 0


async def test_a_watcher_hears_that_its_target_failed(pair):
    class Fails(Echo):
        async def fail(self) -> None:
            raise ValueError("asked to")

    def announce(name, incarnation, error):
        for node in pair.nodes:
            node.remove_location(name, incarnation, f"it failed: {error}", DownKind.FAILED)

    pair.far.on_actor_failed = announce
    ref = await pair.spawn(Fails)
    watch = ref.watch()
    ref.tell(Fails.fail)
    down = await in_time(watch)
    assert facts(down) == ("a.0", 1, DownKind.FAILED)
    assert "asked to" in down.reason


def is_linked(pair):
    """Both ends have heard of the link from the near node to the far one."""
    return len(pair.origins()) == 1 and any(peer.link for peer in pair.near._peers.values())


async def test_each_watch_has_its_own_down(pair):
    ref = await pair.spawn(Echo)
    asker, actor = await watcher(pair)
    await asker.ask(Watcher.watch, ref, 3)
    outside = ref.watch()
    await pair.stop("a.0")
    await until(lambda: len(actor.downs) == 3)
    assert facts(await in_time(outside))[:2] == ("a.0", 1)
    await turns(20)
    assert len(actor.downs) == 3


async def test_a_target_that_is_down_already_is_told_at_once(pair):
    ref = await pair.spawn(Echo, incarnation=2)
    await pair.stop("a.0")
    asker, actor = await watcher(pair)
    await asker.ask(Watcher.watch, ref)
    await until(lambda: actor.downs)
    assert facts(actor.downs[0])[:2] == ("a.0", 2)
    assert facts(await in_time(ref.watch()))[:2] == ("a.0", 2)


async def test_a_name_that_nobody_ever_had_is_down_with_incarnation_0(pair):
    down = await in_time(pair.near.ref("nobody.7", Echo).watch())
    assert facts(down) == ("nobody.7", 0, DownKind.UNKNOWN)


async def test_a_target_without_a_link_to_it_is_watched_all_the_same(remote):
    ref = await remote.spawn(Echo)
    watch = ref.watch()
    await until(remote.origins, "the watcher dials")
    await remote.far.close()
    down = await in_time(watch)
    assert facts(down) == ("a.0", 1, DownKind.UNREACHABLE)


async def test_a_target_that_cannot_be_reached_is_down(remote):
    ref = await remote.spawn(Echo)
    await remote.far.close()
    down = await in_time(ref.watch())
    assert facts(down) == ("a.0", 1, DownKind.UNREACHABLE)
    assert down.reason


async def test_a_link_that_breaks_is_no_death_where_it_can_be_made_again(remote):
    ref = await remote.spawn(Gate)
    watch = ref.watch()
    for _ in range(3):
        await until(lambda: is_linked(remote), "the watcher dials")
        (origin,) = remote.origins()
        origin.link.close()
        await until(lambda gone=origin: gone not in remote.origins() and not is_linked(remote))
    await until(lambda: is_linked(remote), "the watcher dials again")
    assert await ref.ask(Gate.note, 1) == 1
    assert "open" in repr(watch)
    await remote.stop("a.0")
    assert facts(await in_time(watch))[:2] == ("a.0", 1)


async def test_a_supervised_watcher_waits_for_the_word_of_its_supervisor(remote):
    """The link goes first, the reason comes a moment later."""
    remote.near.supervised = True
    ref = await remote.spawn(Echo)
    watch = ref.watch()
    await until(lambda: is_linked(remote))
    dials = []
    reach = remote.near.reach
    remote.near.reach = lambda location: dials.append(location) or reach(location)
    await remote.far.close()
    await until(lambda: dials, "the link is gone, and made again")
    await turns(20)
    assert "open" in repr(watch)
    remote.near.node_down(remote.far.id, "killed by SIGKILL", DownKind.KILLED)
    down = await in_time(watch)
    assert (facts(down), down.reason) == (("a.0", 1, DownKind.KILLED), "killed by SIGKILL")


async def test_a_supervised_watcher_gives_up_in_the_end(remote, monkeypatch):
    monkeypatch.setattr("callboard.actors.watches.PATIENCE_S", 0.2)
    remote.near.supervised = True
    ref = await remote.spawn(Echo)
    watch = ref.watch()
    await remote.far.close()
    assert facts(await in_time(watch)) == ("a.0", 1, DownKind.UNREACHABLE)


async def test_a_link_of_a_watch_is_not_closed_for_being_idle(remote):
    ref = await remote.spawn(Echo)
    await ref.ask(Echo.echo, 1)
    ((link, _),) = remote.near._sessions.items()
    assert remote.near.link_idle(link)
    watch = ref.watch()
    assert not remote.near.link_idle(link)
    watch.cancel()
    assert remote.near.link_idle(link)


async def test_a_successor_is_not_watched(pair):
    ref = await pair.spawn(Echo)
    asker, actor = await watcher(pair)
    await asker.ask(Watcher.watch, ref)
    await pair.stop("a.0")
    await pair.spawn(Echo, incarnation=2)
    await until(lambda: actor.downs)
    await pair.stop("a.0")
    await turns(50)
    assert [facts(down)[:2] for down in actor.downs] == [("a.0", 1)]


async def test_a_successor_that_is_announced_first_says_that_its_predecessor_is_gone(remote):
    """Not a word of the end of the first incarnation ever comes."""
    ref = await remote.spawn(Echo)
    watch = ref.watch()
    await remote.far.stop_actor("a.0", StopReason.COMMANDED)
    await remote.spawn(Echo, incarnation=2)
    down = await in_time(watch)
    assert facts(down) == ("a.0", 1, DownKind.UNKNOWN)
    assert "incarnation 2 has taken its place" in down.reason


async def test_after_cancel_nothing_is_heard(pair):
    ref = await pair.spawn(Echo)
    asker, actor = await watcher(pair)
    await asker.ask(Watcher.watch, ref, 2)
    await asker.ask(Watcher.unwatch)
    await pair.stop("a.0")
    await turns(50)
    assert await asker.ask(Gate.look) == 0
    assert actor.downs == []
    assert len(pair.near.watches) == 0


async def test_a_down_that_waits_for_its_turn_can_be_cancelled(pair):
    ref = await pair.spawn(Echo)
    asker, actor = await watcher(pair)
    await asker.ask(Watcher.watch, ref)
    held = asyncio.create_task(asker.ask(Gate.hold, 1))
    await until(lambda: actor.seen == [1])
    await pair.stop("a.0")
    await until(lambda: len(pair.cell("watcher.0").mailbox) == 1)
    actor.watches[0].cancel()
    assert len(pair.cell("watcher.0").mailbox) == 0
    actor.gate.set()
    await held
    assert await asker.ask(Gate.note, 2) == 2
    assert actor.downs == []


async def test_downs_come_before_the_messages_that_wait_one_at_a_time_and_in_their_order(pair):
    refs = [await pair.spawn(Echo, name=f"a.{n}") for n in range(5)]
    asker, actor = await watcher(pair)
    for ref in refs:
        await asker.ask(Watcher.watch, ref)
    held = asyncio.create_task(asker.ask(Gate.hold, "first"))
    await until(lambda: actor.seen == ["first"])
    waiting = [asyncio.create_task(asker.ask(Gate.note, n)) for n in range(3)]
    await until(lambda: len(pair.cell("watcher.0").mailbox) == 3)
    for ref in refs:
        await pair.stop(ref.name)
    await until(lambda: len(pair.cell("watcher.0").mailbox) == 8)
    assert actor.downs == []
    actor.gate.set()
    await asyncio.gather(held, *waiting)
    assert actor.seen == ["first", *["down"] * 5, 0, 1, 2]
    assert [down.name for down in actor.downs] == [f"a.{n}" for n in range(5)]


async def test_what_on_down_raises_fails_the_actor(pair):
    class Breaks(Watcher):
        async def on_down(self, down: Down) -> None:
            raise ValueError(f"without {down.name}")

    failed = asyncio.get_running_loop().create_future()
    pair.near.on_actor_failed = lambda name, incarnation, error: failed.set_result((name, str(error)))
    ref = await pair.spawn(Echo)
    asker, _ = await watcher(pair, Breaks)
    await asker.ask(Watcher.watch, ref)
    await pair.stop("a.0")
    assert await in_time(failed) == ("watcher.0", "without a.0")


async def test_a_watch_ends_with_its_actor(pair):
    ref = await pair.spawn(Echo)
    asker, actor = await watcher(pair)
    await asker.ask(Watcher.watch, ref, 3)
    assert len(pair.near.watches) == 3
    await pair.near.stop_actor("watcher.0", StopReason.COMMANDED)
    assert len(pair.near.watches) == 0
    await pair.stop("a.0")
    assert actor.downs == []


async def test_a_component_is_refused_with_what_to_do(pair):
    await pair.spawn(Echo, name="many.0")
    for name in ("many", "never_heard_of"):
        with pytest.raises(ValueError, match=rf"{name} is no instance .* ref\.instances\(\)"):
            pair.near.ref(name, Echo).watch()
    asker, _ = await watcher(pair)
    with pytest.raises(ValueError, match="watch one instance"):
        await asker.ask(Watcher.watch, pair.near.ref("many", Echo))


async def test_an_actor_without_the_hook_cannot_watch(pair):
    class Deaf(Actor):
        async def watch(self, ref) -> None:
            self.context.watch(ref)

    ref = await pair.spawn(Deaf)
    with pytest.raises(TypeError, match=r"Deaf watches and has no hook .* on_down\(self, down: Down\)"):
        await ref.ask(Deaf.watch, ref)


async def test_a_watch_that_is_dropped_leaves_nothing(pair):
    ref = await pair.spawn(Echo)
    ref.watch()
    gc.collect()
    assert len(pair.near.watches) == 0
    watch = ref.watch()
    waiting = asyncio.create_task(asyncio.wait_for(watch, PATIENCE_S))
    await turns(3)
    waiting.cancel()
    await asyncio.wait({waiting})
    async with ref.watch():
        assert len(pair.near.watches) == 2
    assert len(pair.near.watches) == 1
    await pair.stop("a.0")
    assert facts(await in_time(watch))[:2] == ("a.0", 1)  # an await that was cancelled has not ended it
    assert await watch is await watch


async def test_an_awaited_watch_is_kept_alive_by_who_awaits_it(pair):
    async def news():
        return await ref.watch()

    ref = await pair.spawn(Echo)
    task = asyncio.create_task(news())
    await until(lambda: len(pair.near.watches) == 1)
    gc.collect()
    await pair.stop("a.0")
    assert (await in_time(task)).name == "a.0"


async def test_a_node_that_closes_tells_who_still_watches(pair):
    ref = await pair.spawn(Echo, on=pair.far)
    watch = ref.watch()
    await pair.near.close()
    down = await in_time(watch)
    assert down.kind in (DownKind.UNREACHABLE, DownKind.STOPPED)
    later = await in_time(ref.watch())
    assert (later.kind, later.reason) == (DownKind.UNREACHABLE, "this node was closed")


async def test_an_actor_that_is_watched_while_it_stops_is_down_when_it_has_stopped(pair):
    ref = await pair.spawn(Gate)
    actor = pair.actor()
    held = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: actor.seen == [1])
    stopping = asyncio.create_task(pair.stop("a.0"))
    await turns(3)
    watch = ref.watch()
    await turns(20)
    assert "open" in repr(watch)
    actor.gate.set()
    await asyncio.gather(held, stopping)
    assert facts(await in_time(watch))[:2] == ("a.0", 1)


def _kill(pair: object, node: Node, far: Node) -> None:
    node.node_down(far.id, "it was killed", DownKind.KILLED)


def _removed(pair: object, node: Node, far: Node) -> None:
    node.remove_location("a.0", 1, "it failed", DownKind.FAILED)


def _cut(pair, node: Node, far: Node) -> None:
    for origin in pair.origins():
        origin.link.close()


NEWS = {"killed": _kill, "removed": _removed, "cut": _cut}


@pytest.mark.parametrize("order", list(itertools.permutations(NEWS)), ids="-".join)
@pytest.mark.parametrize("when", [0, 1, 2])
async def test_the_same_death_told_three_ways_is_one_down(remote, order, when):
    """``when``: how many of the three have come when the watch begins."""
    ref = await remote.spawn(Echo)
    await ref.ask(Echo.echo, 1)
    asker, actor = await watcher(remote)
    for number, what in enumerate(order):
        if number == when:
            await asker.ask(Watcher.watch, ref)
        NEWS[what](remote, remote.near, remote.far)
        await turns(number)
    await until(lambda: actor.downs)
    await turns(50)
    assert [facts(down)[:2] for down in actor.downs] == [("a.0", 1)]
    assert len(remote.near.watches) == 0
