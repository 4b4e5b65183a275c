"""Where requests go and how they wait: who is up, who failed, who is full, and who comes first."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from callboard.actors.errors import ActorStopped, Overloaded
from callboard.serving.errors import NoWorkers, RequestRefused, UnknownModel
from callboard.serving.journey import Journey
from callboard.serving.kv.view import CacheView
from callboard.serving.membership import Pool
from callboard.serving.placing import Placed, Placer
from callboard.serving.protocol import RankLoad
from callboard.serving.scheduling.settings import RouterSettings

from .serving_fakes import FakeComponent, info, journey

LOG = logging.getLogger("callboard.tests")
SOON_S = 0.02


async def placer(component: FakeComponent, **options: Any) -> Placer:
    settings = RouterSettings(**options)
    pool = Pool(component.ref, LOG)
    made = Placer(pool, settings, CacheView(settings), actor="router.0")
    pool.joined, pool.left, pool.changed = made.joined, made.left, made.pump
    await pool.start()
    return made


async def two(**options: Any) -> tuple[FakeComponent, Placer]:
    component = FakeComponent(info(), info())
    return component, await placer(component, **options)


def lost(made: Placer, placed: Placed, failed: Journey) -> None:
    """What a router does when a worker fails."""
    made.failed(placed, inhibit=True)
    key = (placed.member.index, placed.member.incarnation)
    failed.excluded.add(key)
    failed.lost.add(key)
    failed.attempt += 1
    failed.failure = "it broke"
    made.finish(placed)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_place_is_booked_until_it_is_given_back() -> None:
    _, made = await two()
    placed = await made.place(journey())
    assert made.scheduler.outstanding == {placed.worker: 1}
    made.first_piece(placed)
    made.finish(placed)
    made.finish(placed)
    assert made.scheduler.outstanding == {}
    assert made.statistics()["placed"] == {placed.worker: 1}


async def test_a_model_that_nobody_serves_is_refused_at_once() -> None:
    _, made = await two()
    with pytest.raises(UnknownModel, match="models are: m"):
        await made.place(journey(model="other"))


async def test_a_failed_request_goes_to_another_worker_and_so_do_new_ones() -> None:
    _, made = await two(mode="least-loaded")
    failed = journey()
    first = await made.place(failed)
    lost(made, first, failed)
    second = await made.place(failed)
    assert second.worker != first.worker
    assert {(await made.place(journey())).worker for _ in range(4)} == {second.worker}
    assert made.statistics()["failures"] == {first.worker: 1}


async def test_when_all_have_failed_they_are_tried_again_without_polling() -> None:
    component = FakeComponent(info())
    made = await placer(component, wait_s=30.0)
    failed = journey()
    for _ in range(3):  # each time after a longer pause
        placed = await asyncio.wait_for(made.place(failed), 30)
        lost(made, placed, failed)
    assert made.breaker.probes == 2
    assert failed.waited_s > 0


async def test_without_inhibition_a_failed_request_waits_for_a_successor() -> None:
    component = FakeComponent(info())
    made = await placer(component, wait_s=30.0, inhibit_s=0.0)
    failed = journey()
    lost(made, await made.place(failed), failed)
    waiting = asyncio.ensure_future(made.place(failed))
    await turns()
    assert not waiting.done()
    component.up(0, info())
    assert (await waiting).member.incarnation == 2


async def test_one_request_alone_tries_a_worker_that_failed() -> None:
    component = FakeComponent(info())
    made = await placer(component, wait_s=30.0)
    failed = journey()
    lost(made, await made.place(failed), failed)
    waiting = [asyncio.ensure_future(made.place(journey())) for _ in range(5)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    await turns()
    assert len(done) == sum(task.done() for task in waiting) == 1
    probe = done.pop().result()
    assert probe.is_probe
    made.first_piece(probe)  # it works: the others go, too
    await asyncio.wait_for(asyncio.gather(*waiting), 30)


async def test_the_end_of_an_older_request_does_not_end_a_probe() -> None:
    component = FakeComponent(info())
    made = await placer(component, wait_s=30.0)
    old, failed = await made.place(journey()), journey()
    lost(made, await made.place(failed), failed)
    probe = await made.place(journey())
    assert probe.is_probe
    waiting = asyncio.ensure_future(made.place(journey()))
    made.finish(old)
    await turns()
    assert not waiting.done()
    made.finish(probe)  # its caller left
    assert (await asyncio.wait_for(waiting, 30)).is_probe


async def test_what_becomes_of_requests_of_a_dead_incarnation_says_nothing_of_its_successor() -> None:
    component = FakeComponent(info())
    made = await placer(component, wait_s=30.0)
    late, later, silent = [await made.place(journey()) for _ in range(3)]
    component.up(0, info())
    await made.pool.asked()
    lost(made, late, journey())
    assert made.breaker.inhibited == []
    assert made.statistics()["failures"] == {}

    failed = journey()
    lost(made, await made.place(failed), failed)
    assert made.breaker.inhibited == [0]
    made.first_piece(later)
    made.finish(later)
    made.finish(silent)
    assert made.breaker.inhibited == [0]
    assert (await asyncio.wait_for(made.place(failed), 30)).is_probe


async def test_without_a_worker_requests_wait_for_one() -> None:
    component, made = await two()
    component.down(0)
    component.down(1)
    waiting = [asyncio.ensure_future(made.place(journey())) for _ in range(3)]
    await turns()
    assert made.waiting == 3
    component.up(7, info())
    assert {placed.worker for placed in await asyncio.gather(*waiting)} == {7}
    assert made.waiting == 0


async def test_who_has_waited_long_enough_is_told_why() -> None:
    component, made = await two(wait_s=SOON_S)
    component.down(0)
    component.down(1)
    with pytest.raises(NoWorkers, match="no instance of worker that serves m is up"):
        await made.place(journey())
    assert made.waiting == 0
    assert made.statistics()["refused"] == 1


async def test_a_place_that_comes_as_the_time_is_over_is_taken() -> None:
    component, made = await two(wait_s=30.0)
    pinned = asyncio.ensure_future(made.place(journey(worker=5)))
    await turns()
    last = journey()
    last.waited_s = 30.0
    made.pool.changed = made._pump_soon
    component.down(1)  # somebody looks at the end of this turn, when the time is over
    assert (await made.place(last)).worker == 0
    pinned.cancel()


async def test_no_more_wait_than_the_limit_says() -> None:
    component, made = await two(queue_limit=2)
    component.down(0)
    component.down(1)
    waiting = [asyncio.ensure_future(made.place(journey())) for _ in range(2)]
    await turns()
    with pytest.raises(Overloaded, match="queue_limit"):
        await made.place(journey())
    waiting[0].cancel()  # who leaves makes room
    await asyncio.wait(waiting[:1])
    waiting.append(asyncio.ensure_future(made.place(journey())))
    component.up(0, info())
    await asyncio.gather(*waiting[1:])


async def test_those_who_wait_for_one_model_keep_nobody_from_another() -> None:
    component = FakeComponent(info("a"), info("b"))
    made = await placer(component, queue_limit=2)
    component.down(0)
    waiting = [asyncio.ensure_future(made.place(journey(model="a"))) for _ in range(2)]
    await turns()
    assert made.waiting == 2
    assert (await made.place(journey(model="b"))).worker == 1
    with pytest.raises(Overloaded, match="queue_limit"):
        await made.place(journey(model="a"))
    component.up(0, info("a"))
    await asyncio.gather(*waiting)
    assert made._plain == {}


async def test_a_worker_that_dies_with_many_requests_costs_a_look_at_each_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 200
    component = FakeComponent(info())
    made = await placer(component, wait_s=30.0)
    journeys = [journey() for _ in range(count)]
    places = [await made.place(one) for one in journeys]
    component.down(0)
    tries: list[Journey] = []
    look = made._try
    monkeypatch.setattr(made, "_try", lambda one: tries.append(one) or look(one))

    async def go_on(placed: Placed, failed: Journey) -> Placed:
        failed.excluded.add((0, placed.member.incarnation))
        failed.attempt += 1
        made.finish(placed)
        return await made.place(failed)

    waiting = [asyncio.ensure_future(go_on(*one)) for one in zip(places, journeys, strict=True)]
    await turns()
    assert made.waiting == count
    assert len(tries) < 3 * count
    component.up(0, info())
    assert len(await asyncio.gather(*waiting)) == count


async def test_who_waits_goes_by_priority_then_by_arrival() -> None:
    component = FakeComponent(info(max_batch_tokens=4, block_size=4))
    made = await placer(component, mode="kv", queue_threshold=0.5, wait_s=30.0)
    running = await made.place(journey())
    order: list[str] = []

    async def wait(name: str, priority: int) -> None:
        placed = await made.place(journey(request_id=name, priority=priority))
        order.append(name)
        made.first_piece(placed)

    tasks = []
    for name, priority in [("a", 0), ("b", 0), ("c", 9)]:
        tasks.append(asyncio.create_task(wait(name, priority)))
        await turns()
    assert order == []
    made.first_piece(running)
    await asyncio.gather(*tasks)
    assert order == ["c", "a", "b"]


async def test_under_wspt_short_prompts_pass_long_ones_and_cached_ones_are_short() -> None:
    component = FakeComponent(info(max_batch_tokens=4, block_size=4))
    made = await placer(component, mode="kv", queue_threshold=0.5, queue_policy="wspt", wait_s=30.0)
    long = " ".join(f"w{n}" for n in range(40))
    earlier = await made.place(journey(prompt=long))
    made.finish(earlier)
    running = await made.place(journey())
    order: list[str] = []

    async def wait(name: str, prompt: str) -> None:
        placed = await made.place(journey(request_id=name, prompt=prompt))
        order.append(name)
        made.first_piece(placed)

    tasks = []
    for name, prompt in [("long", long.upper()), ("short", "a b c d e f"), ("cached", f"{long} x")]:
        tasks.append(asyncio.create_task(wait(name, prompt)))
        await turns()
    made.first_piece(running)
    await asyncio.gather(*tasks)
    assert order == ["cached", "short", "long"]


async def test_a_place_that_comes_as_its_request_leaves_is_given_back() -> None:
    component, made = await two()
    component.down(0)
    component.down(1)
    waiting = asyncio.ensure_future(made.place(journey()))
    await turns()

    def pump_and_leave() -> None:
        made.pump()
        assert made.scheduler.outstanding
        waiting.cancel()

    made.pool.changed = pump_and_leave
    component.up(0, info())
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert made.scheduler.outstanding == {}


async def test_when_all_are_full_nobody_waits() -> None:
    _, made = await two(max_outstanding=1)
    for _ in range(2):
        await made.place(journey())
    with pytest.raises(Overloaded, match="max_outstanding"):
        await made.place(journey())


async def test_a_request_that_every_worker_declines_is_refused_at_once() -> None:
    _, made = await two()
    declined = journey()
    for index in range(2):
        declined.excluded.add((index, 1))
        declined.busy[index, 1] = 0
    with pytest.raises(Overloaded, match="each of 2 workers is full"):
        await made.place(declined)


async def test_busy_by_what_the_worker_says() -> None:
    component = FakeComponent(info(block_size=4, total_blocks=100))
    made = await placer(component, mode="kv", active_decode_blocks_threshold=0.5)
    load = RankLoad(dp_rank=0, running=9, waiting=0, used_blocks=90, prefill_tokens=0)
    made.reported(0, [load])
    with pytest.raises(Overloaded, match="busy"):
        await made.place(journey())
    made.reported(0, [RankLoad(dp_rank=0, running=0, waiting=0, used_blocks=0, prefill_tokens=0)])
    await made.place(journey())


async def test_a_pin_waits_for_its_worker_and_holds_up_nobody() -> None:
    component, made = await two()
    pinned = asyncio.ensure_future(made.place(journey(worker=5)))
    await turns()
    assert (await made.place(journey())).worker in (0, 1)
    component.up(5, info())
    assert (await pinned).worker == 5


async def test_a_pin_is_refused_at_once_when_its_worker_is_full_although_others_are_not() -> None:
    _, made = await two()
    declined = journey(worker=1)
    declined.excluded.add((1, 1))
    declined.busy[1, 1] = 0
    with pytest.raises(Overloaded, match="each of 1 workers is full"):
        await made.place(declined)


async def test_a_pin_goes_to_its_worker_again_when_that_is_well() -> None:
    _, made = await two(wait_s=30.0)
    failed = journey(worker=1)
    lost(made, await made.place(failed), failed)
    again = await asyncio.wait_for(made.place(failed), 30)
    assert (again.worker, again.is_probe) == (1, True)


async def test_direct_needs_a_worker() -> None:
    _, made = await two(mode="direct")
    with pytest.raises(RequestRefused, match="direct"):
        await made.place(journey())
    assert (await made.place(journey(worker=1))).worker == 1


async def test_a_session_stays_where_it_is() -> None:
    _, made = await two(mode="least-loaded", session_affinity_ttl_s=60.0)
    homes = {(await made.place(journey(session="s"))).worker for _ in range(4)}
    assert len(homes) == 1


async def test_place_now_never_waits() -> None:
    component, made = await two(max_outstanding=1)
    assert made.place_now(journey()) is not None
    assert made.place_now(journey()) is not None
    assert made.place_now(journey()) is None
    assert made.place_now(journey(model="other")) is None
    component.down(0)
    component.down(1)
    assert made.place_now(journey()) is None


async def test_closing_ends_all_waits() -> None:
    component, made = await two()
    component.down(0)
    component.down(1)
    waiting = asyncio.ensure_future(made.place(journey()))
    await turns()
    made.close(ActorStopped("the router was stopped"))
    with pytest.raises(ActorStopped):
        await waiting


async def test_a_prompt_goes_back_to_where_it_was_sent() -> None:
    component = FakeComponent(info(block_size=4), info(block_size=4), info(block_size=4))
    made = await placer(component, mode="kv")
    prompt = " ".join(f"w{n}" for n in range(40))
    first = await made.place(journey(prompt=prompt))
    made.finish(first)
    again = await made.place(journey(prompt=f"{prompt} more"))
    assert (again.worker, again.choice.overlap_blocks) == (first.worker, 10)
    component.up(first.worker, info(block_size=4))  # its cache is gone with it
    await made.pool.asked()
    assert (await made.place(journey(prompt=prompt))).choice.overlap_blocks == 0
