"""The table of watches by itself: what counts as down, in which order, and what is dialled when."""

import asyncio
import itertools
import random

import pytest

from callboard.actors import watches as module
from callboard.actors.departed import Fate
from callboard.actors.directory import Directory, Location
from callboard.actors.policy import DownKind
from callboard.actors.watches import AwaitableWatch, Watches

KILLED = Fate(1, DownKind.KILLED, "killed")


def at(name, node="far", number=1, incarnation=1):
    return Location(name, node, f"memory://{node}", number, incarnation)


class Host:
    """A node as its watches see it."""

    def __init__(self, *, supervised=False):
        self.id = "near"
        self.supervised = supervised
        self.directory = Directory()
        self.here = {}
        self.dialled = []
        self.watches = Watches(self)
        self.directory.on_gone = self.watches.left_directory

    def location(self, name):
        return self.here.get(name)

    def reach(self, location):
        self.dialled.append(location.node)
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told what time it is."""
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


async def settle():
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_watch_is_told_once_however_often_its_target_goes_down():
    host, heard = Host(), []
    location = at("a.0")
    host.directory.add(location)
    watching = host.watches.watch("a.0", heard.append)
    assert (len(host.watches), "far" in host.watches, watching.over) == (1, True, False)
    host.watches.gone(location, KILLED)
    host.watches.gone(location, KILLED)
    host.directory.node_down("far", "again", DownKind.KILLED)
    host.watches.way_down("far", "and again", was_up=False)
    assert heard == [KILLED]
    assert (len(host.watches), "far" in host.watches, watching.over) == (0, False, True)
    watching.cancel()


async def test_news_of_a_later_death_name_the_incarnation_that_was_watched():
    host, heard = Host(), []
    host.directory.add(at("a.0"))
    host.watches.watch("a.0", heard.append)
    host.directory.remove("a.0", 2, "it was stopped", DownKind.STOPPED)
    assert heard == [Fate(1, DownKind.STOPPED, "it was stopped")]


async def test_every_order_of_deaths_watches_and_cancels_tells_each_watch_at_most_once(clock):
    """And exactly once if it is not cancelled, however the incarnations and the news of them are mixed."""
    dice = random.Random(1)
    for _ in range(300):
        host, heard, cancelled = Host(supervised=dice.random() < 0.5), [], set()
        numbers, watching = itertools.count(1), []
        host.directory.add(at("a.0", number=next(numbers)))
        for _ in range(dice.randint(1, 30)):
            current = host.directory.get("a.0")
            step = dice.choice(
                ["watch", "watch", "cancel", "remove", "node", "add", "link", "dial", "settle"]
            )
            if step == "watch":
                told = []
                heard.append(told)
                watching.append(host.watches.watch("a.0", told.append))
            elif step == "cancel" and watching:
                index = dice.randrange(len(watching))
                if not heard[index]:
                    cancelled.add(index)
                watching[index].cancel()
            elif step == "remove" and current:
                host.directory.remove("a.0", current.incarnation, "removed", DownKind.FAILED)
            elif step == "node":
                host.directory.node_down("far", "killed", DownKind.KILLED)
            elif step == "add":
                number = next(numbers)
                host.directory.add(at("a.0", number=number, incarnation=number))
            elif step in ("link", "dial"):
                clock[0] += dice.choice([0, 0.1, 4])
                host.watches.way_down("far", step, was_up=step == "link")
            else:
                await settle()
        host.watches.close("the end")
        await settle()
        assert [len(told) for told in heard] == [int(n not in cancelled) for n in range(len(heard))]
        assert len(host.watches) == 0


async def test_a_local_actor_is_down_when_it_has_ended_and_not_when_the_directory_forgets_it():
    host, heard = Host(), []
    location = host.here["a.0"] = at("a.0", node="near")
    host.directory.add(location)
    host.watches.watch("a.0", heard.append)
    await settle()
    host.directory.remove("a.0", 1, "it was stopped", DownKind.STOPPED)
    assert (heard, host.dialled) == ([], [])
    host.watches.gone(location, host.directory.fate("a.0"))
    assert heard == [(1, DownKind.STOPPED, "it was stopped")]


@pytest.mark.parametrize(("supervised", "patience_s"), [(False, module.MOMENT_S), (True, module.PATIENCE_S)])
async def test_a_node_is_dialled_again_until_its_time_is_up(clock, supervised, patience_s):
    host, heard = Host(supervised=supervised), []
    host.directory.add(at("a.0"))
    host.watches.watch("a.0", heard.append)
    await settle()
    assert host.dialled == ["far"]
    clock[0] += 50
    host.watches.way_down("far", "it broke", was_up=True)
    await asyncio.sleep(0.001)
    assert host.dialled == ["far"] * 2  # at once
    host.watches.way_down("far", "refused", was_up=False)
    clock[0] += patience_s * 0.9
    host.watches.way_down("far", "refused", was_up=False)
    assert heard == []
    clock[0] += patience_s * 0.2
    host.watches.way_down("far", "refused at last", was_up=False)
    assert heard == [(1, DownKind.UNREACHABLE, "refused at last")]


async def test_a_way_that_flaps_is_dialled_less_and_less_often_and_a_steady_one_at_once(clock, monkeypatch):
    delays = []
    host = Host()
    host.directory.add(at("a.0"))
    host.watches.watch("a.0", lambda fate: None)
    await settle()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(
        loop, "call_later", lambda delay_s, *args: delays.append(delay_s) or loop.call_soon(*args)
    )
    for _ in range(8):
        host.watches.way_down("far", "it broke", was_up=True)
        await settle()
    assert delays[0] == 0
    assert all(0.025 <= delay_s <= 1 for delay_s in delays[1:])
    assert delays[-1] >= 0.5
    clock[0] += 2
    host.watches.way_down("far", "it broke", was_up=True)
    assert delays[-1] == 0
    monkeypatch.undo()
    host.watches.close("the end")


async def test_one_node_is_dialled_for_all_its_actors_and_all_are_told(clock):
    host, heard = Host(), []
    for number in range(5):
        host.directory.add(at(f"a.{number}", number=number))
        host.watches.watch(f"a.{number}", heard.append)
    assert len(host.watches) == 5
    host.watches.way_down("far", "refused", was_up=False)
    clock[0] += 1
    host.watches.way_down("far", "refused", was_up=False)
    assert heard == [(1, DownKind.UNREACHABLE, "refused")] * 5


async def test_what_waits_for_a_closed_node_is_told_and_so_is_who_comes_later():
    host = Host()
    host.directory.add(at("a.0"))
    watch = AwaitableWatch(host.watches, "a.0", lambda fate: fate)
    host.watches.close("this node was closed")
    later = AwaitableWatch(host.watches, "b.0", lambda fate: fate)
    assert await watch == (1, DownKind.UNREACHABLE, "this node was closed")
    assert await later == (0, DownKind.UNREACHABLE, "this node was closed")
    assert repr(watch) == "<AwaitableWatch over>"


async def test_a_cancelled_watch_cancels_who_waits_for_it():
    host = Host()
    host.directory.add(at("a.0"))
    watch = AwaitableWatch(host.watches, "a.0", lambda fate: fate)
    waiting = asyncio.ensure_future(watch)
    await settle()
    watch.cancel()
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(host.watches) == 0
