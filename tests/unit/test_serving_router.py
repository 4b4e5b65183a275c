"""What a router makes of what its workers do: every piece once, whatever fails."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from callboard.actors.errors import ActorStopped, ActorUnavailable, DeadlineExceeded, MailboxFull, Overloaded
from callboard.actors.policy import Executed
from callboard.serving.errors import (
    ContextTooLong,
    EngineAway,
    EngineBusy,
    EngineFailed,
    NoWorkers,
    WorkersLost,
)
from callboard.serving.protocol import Finish, FinishReason, Piece, Role, Routed
from callboard.serving.router import DECISIONS, PREFILL_S, Router
from callboard.serving.scheduling.settings import RouterSettings

from ..integration.waiting import until
from .serving_fakes import FakeComponent, Play, info, request

DEAD = ActorUnavailable("its process is gone", executed=Executed.MAYBE)
AWAY = ActorUnavailable("it is not up")
ERRORS = [
    DEAD,
    AWAY,
    EngineFailed("broke"),
    ActorStopped("stopping"),
    MailboxFull("full"),
    Overloaded("too much"),
]


def end(count: int) -> Finish:
    return Finish(reason=FinishReason.LENGTH, prompt_tokens=4, completion_tokens=count)


async def made(component: FakeComponent, prefill: FakeComponent | None = None, **options: Any) -> Router:
    router = Router(component.ref, prefill=None if prefill is None else prefill.ref, **options)
    events = SimpleNamespace(plane="none")
    log = logging.getLogger("callboard.tests")
    router.context = cast("Any", SimpleNamespace(name="router.0", log=log, events=events))
    await router.on_start()
    return router


async def with_workers(*plays: Play, **options: Any) -> tuple[FakeComponent, Router]:
    """A router whose worker n does what the n-th play says."""
    component = FakeComponent(*(info() for _ in plays))
    for ref, play in zip(component.refs.values(), plays, strict=True):
        ref.plays = [play]
    return component, await made(component, **{"wait_s": 0.05} | options)


async def answer(router: Router, **fields: Any) -> list[Piece]:
    return [piece async for piece in router.generate(request(**fields))]


async def test_a_router_that_cannot_start_follows_nobody() -> None:
    async def subscribe(*_: Any, **__: Any) -> None:
        raise RuntimeError("no event plane")

    component = FakeComponent(info())
    router = Router(component.ref)
    events = SimpleNamespace(plane="memory", subscribe=subscribe)
    log = logging.getLogger("callboard.tests")
    router.context = cast("Any", SimpleNamespace(name="router.0", log=log, events=events))
    with pytest.raises(RuntimeError, match="no event plane"):
        await router.on_start()
    assert component._listeners == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_request_that_fails_before_its_first_piece_goes_to_another_worker(error: Exception) -> None:
    component, router = await with_workers([error], [["a", "b"], [end(2)]])
    assert await answer(router) == ["a", "b", end(2)]
    assert component.refs[1].got == [request()]
    assert (router.moved, router.finished) == (0, 1)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_answer_goes_on_elsewhere_after_its_last_piece(error: Exception) -> None:
    component, router = await with_workers([["a", "b"], ["c"], error], [["d"], ["e", end(2)]])
    assert await answer(router, max_tokens=5) == ["a", "b", "c", "d", "e", end(5)]
    assert component.refs[1].got == [request(max_tokens=2, done=["a", "b", "c"])]
    assert router.moved == 1


async def test_ids_go_on_as_ids_over_several_moves() -> None:
    component, router = await with_workers(
        [[1, 2], DEAD], [[3], DEAD], [[4, end(1)]], mode="round-robin", migration_limit=2
    )
    assert await answer(router, max_tokens=4) == [1, 2, 3, 4, end(4)]
    assert component.refs[2].got[0].done == [1, 2, 3]


async def test_no_answer_moves_more_often_than_allowed() -> None:
    _, router = await with_workers([["a"], DEAD], [["b"], DEAD], [["c", end(1)]], migration_limit=1)
    stream = router.generate(request())
    assert [await anext(stream) for _ in range(2)] == ["a", "b"]
    with pytest.raises(ActorUnavailable):
        await anext(stream)
    assert router.failed == 1


async def test_with_migration_off_only_what_has_not_begun_goes_elsewhere() -> None:
    _, router = await with_workers([["a"], DEAD], [["b", end(1)]], migration_limit=0)
    with pytest.raises(ActorUnavailable):
        await answer(router)
    _, router = await with_workers([DEAD], [["b", end(1)]], migration_limit=0)
    assert await answer(router) == ["b", end(1)]


async def test_a_worker_that_dies_after_the_end_ends_nothing_twice() -> None:
    component, router = await with_workers([["a", end(1)], DEAD], [["never", end(1)]])
    assert await answer(router) == ["a", end(1)]
    assert component.refs[1].got == []


@pytest.mark.parametrize("error", [ContextTooLong(9, 5), RuntimeError("the engine broke")])
async def test_an_error_of_the_request_goes_to_its_caller_at_once(error: Exception) -> None:
    component, router = await with_workers([error], [["a", end(1)]])
    with pytest.raises(type(error)):
        await answer(router)
    assert component.refs[1].got == []
    assert router._decode.scheduler.outstanding == {}


async def test_a_request_that_kills_workers_gets_few_of_them() -> None:
    component, router = await with_workers(*([DEAD] for _ in range(8)), migration_limit=3)
    with pytest.raises(WorkersLost, match="4 times in a row a worker"):
        await answer(router)
    assert sum(len(ref.got) for ref in component.refs.values()) == 4


async def test_workers_that_cannot_be_reached_cost_a_request_nothing() -> None:
    component, router = await with_workers(*([AWAY] for _ in range(8)), [["a", end(1)]], migration_limit=1)
    assert await answer(router) == ["a", end(1)]
    assert all(len(ref.got) == 1 for ref in component.refs.values())


async def test_the_only_worker_may_have_it_again_when_it_is_well() -> None:
    component, router = await with_workers([DEAD], wait_s=30.0)
    component.refs[0].plays = [[["a"], DEAD], [AWAY], [["b", end(1)]]]
    assert await answer(router, max_tokens=2) == ["a", "b", end(2)]


async def test_when_nobody_becomes_well_the_reason_is_said() -> None:
    _, router = await with_workers([AWAY])
    with pytest.raises(NoWorkers, match=r"failed lately .* ActorUnavailable$"):
        await answer(router)


async def test_an_engine_that_cannot_be_reached_has_not_had_the_request() -> None:
    _, router = await with_workers([EngineAway("refused")] * 9, migration_limit=1)
    with pytest.raises(NoWorkers, match="failed lately"):
        await answer(router)


async def test_who_had_no_room_gets_a_request_again_when_there_is_some_and_the_others_are_lost() -> None:
    component, router = await with_workers([MailboxFull("full")], [AWAY], wait_s=30.0, mode="round-robin")
    full, away = component.refs.values()
    full.plays = [[["x"], [end(1)]], [MailboxFull("full")], [["a"], [end(1)]]]
    running = router.generate(request(worker=0))
    assert await anext(running) == "x"
    waiting = asyncio.ensure_future(answer(router))
    await until(lambda: full.plays[1:] == [] and away.got)
    assert not waiting.done()
    await cast("Any", running).aclose()
    assert await waiting == ["a", end(1)]


async def test_what_is_behind_an_engine_is_not_named_to_callers() -> None:
    _, router = await with_workers([EngineFailed("http://10.0.0.1:8000: refused")], migration_limit=9)
    with pytest.raises(NoWorkers, match=r"failed lately .* EngineFailed$"):
        await answer(router)


async def test_when_every_worker_declines_the_router_does() -> None:
    _, router = await with_workers([MailboxFull("full")], [Overloaded("too much")])
    with pytest.raises(Overloaded, match="each of 2 workers is full"):
        await answer(router)


async def test_when_engines_say_when_to_come_again_the_earliest_is_passed_on() -> None:
    _, router = await with_workers([EngineBusy("full", 30)], [EngineBusy("full", 7)], [MailboxFull("full")])
    with pytest.raises(EngineBusy, match="each of 3 workers is full") as caught:
        await answer(router)
    assert caught.value.retry_after_s == 7


async def test_a_caller_that_leaves_ends_the_work_and_gives_the_place_back() -> None:
    _, router = await with_workers([["a"], ["b"], [end(2)]])
    stream = router.generate(request())
    assert await anext(stream) == "a"
    assert router.load() == {"worker.0": 1}
    await cast("Any", stream).aclose()
    assert router.load() == {"worker.0": 0}


async def test_a_caller_that_leaves_with_no_more_than_the_explanation_gives_the_place_back_too() -> None:
    _, router = await with_workers([["a"], [end(1)]])
    stream = router.generate(request(explain=True))
    assert isinstance(await anext(stream), Routed)
    await cast("Any", stream).aclose()
    assert router.load() == {"worker.0": 0}


async def test_who_asks_hears_once_where_its_request_went() -> None:
    component, router = await with_workers([["a"], DEAD], [["b", end(1)]], mode="round-robin")
    routed, *pieces = await answer(router, explain=True)
    assert isinstance(routed, Routed)
    assert (routed.worker, routed.attempt, routed.mode) == ("worker.0", 0, "round-robin")
    assert pieces == ["a", "b", end(2)]
    assert not any(got.explain for ref in component.refs.values() for got in ref.got)
    assert [one.worker for one in router.decisions()] == ["worker.0", "worker.1"]
    for _ in range(DECISIONS):
        await answer(router, explain=True)
    assert len(router.decisions()) == DECISIONS


async def test_the_rank_that_was_chosen_is_the_one_that_is_asked() -> None:
    component = FakeComponent(info(dp_ranks=2))
    component.refs[0].plays = [[[end(0)]]]
    router = await made(component)
    for _ in range(2):
        await answer(router)
    assert {got.dp_rank for got in component.refs[0].got} == {0, 1}


@pytest.mark.parametrize(("tracks", "blocks"), [(True, 3), (False, 1)])
async def test_the_blocks_of_answers_count_if_that_is_asked_for(tracks: bool, blocks: int) -> None:
    component = FakeComponent(info(block_size=4, total_blocks=100))
    component.refs[0].plays = [[["a"] * 5, ["b"] * 4, [end(9)]]]
    router = await made(component, mode="kv", track_output_blocks=tracks)
    stream = router.generate(request())
    for _ in range(9):
        await anext(stream)
    books = router.statistics()["decode"]["ranks"]
    assert books["0/0"]["decode_blocks"] == blocks
    await cast("Any", stream).aclose()
    assert router.statistics()["decode"]["ranks"]["0/0"]["decode_blocks"] == 0


def test_the_limits_of_a_router_refuse_before_anything_waits_for_its_turn() -> None:
    settings = RouterSettings()
    assert Router.concurrency > 32 * settings.max_outstanding + settings.queue_limit


# -- with a prefill pool

LONG = " ".join(f"w{n}" for n in range(40))


async def apart(*plays: Play, **options: Any) -> tuple[FakeComponent, FakeComponent, Router]:
    decode = FakeComponent(info(block_size=4, role=Role.DECODE))
    decode.refs[0].plays = [[["a", end(1)]]]
    prefill = FakeComponent(*(info(block_size=4, role=Role.PREFILL) for _ in plays))
    for ref, play in zip(prefill.refs.values(), plays, strict=True):
        ref.plays = [play]
    return decode, prefill, await made(decode, prefill, **{"mode": "kv", "eff_isl_threshold": 20} | options)


async def test_a_long_prompt_is_computed_elsewhere_and_handed_over() -> None:
    decode, prefill, router = await apart([["done"]])
    routed, *_ = await answer(router, prompt=LONG, explain=True)
    assert isinstance(routed, Routed)
    assert routed.prefill_worker == prefill.refs[0].name
    assert decode.refs[0].got[0].handover == {"from": prefill.refs[0].name}
    await answer(router, prompt="short")
    assert decode.refs[0].got[1].handover is None
    assert len(prefill.refs[0].got) == 1


async def test_a_prompt_that_is_cached_where_it_is_answered_is_not_computed_elsewhere() -> None:
    _, prefill, router = await apart([["done"]])
    await answer(router, prompt=LONG)
    await answer(router, prompt=f"{LONG} and a little more")
    assert len(prefill.refs[0].got) == 1


async def test_another_prefill_worker_takes_over_and_without_one_the_decode_worker_does_it() -> None:
    decode, prefill, router = await apart([DEAD], [["done"]], mode="round-robin")
    await answer(router, prompt=LONG)
    assert decode.refs[0].got[0].handover == {"from": prefill.refs[1].name}
    decode, prefill, router = await apart([DEAD], [MailboxFull("full")])
    assert await answer(router, prompt=LONG) == ["a", end(1)]
    assert decode.refs[0].got[0].handover is None
    assert router.statistics()["prefill"]["own"] == 0


async def test_the_rest_of_an_answer_is_not_computed_by_the_prefill_pool() -> None:
    decode, prefill, router = await apart([["done"]], wait_s=30.0)
    decode.refs[0].plays = [[["a"], DEAD], [["b", end(1)]]]
    assert await answer(router, prompt=LONG, max_tokens=2) == ["a", "b", end(2)]
    assert [got.handover is None for got in decode.refs[0].got] == [False, True]
    assert len(prefill.refs[0].got) == 1


async def test_a_prompt_that_kills_prefill_workers_gets_few_of_them_and_one_decode_worker() -> None:
    decode, prefill, router = await apart(*([DEAD] for _ in range(8)), migration_limit=2)
    decode.refs[0].plays = [[DEAD]]
    with pytest.raises(WorkersLost, match="3 times in a row a worker"):
        await answer(router, prompt=LONG)
    assert sum(len(ref.got) for ref in prefill.refs.values()) == 2
    assert len(decode.refs[0].got) == 1


async def test_a_prompt_that_takes_a_prefill_worker_too_long_is_computed_where_it_is_answered() -> None:
    decode, prefill, router = await apart([DeadlineExceeded("too slow")], [["done"]], mode="round-robin")
    assert await answer(router, prompt=LONG) == ["a", end(1)]
    assert prefill.refs[0].deadlines[-1] == PREFILL_S
    assert decode.refs[0].got[0].handover is None
    assert router.statistics()["prefill"]["own"] == 0


async def test_what_was_handed_over_goes_to_another_worker_if_the_first_declines_and_not_if_it_fails() -> (
    None
):
    for error, computed in ((MailboxFull("full"), 1), (EngineFailed("broke"), 2)):
        decode, prefill, router = await apart([["done"]], mode="round-robin")
        decode.up(1, info(block_size=4, role=Role.DECODE))
        await router._decode.pool.asked()
        decode.refs[0].plays, decode.refs[1].plays = [[error]], [[["a", end(1)]]]
        assert await answer(router, prompt=LONG) == ["a", end(1)]
        assert decode.refs[1].got[0].handover == {"from": "worker.0"}
        assert len(prefill.refs[0].got) == computed


async def test_a_pin_names_a_decode_worker_and_any_prefill_worker_computes_the_prompt() -> None:
    decode, prefill, router = await apart([["done"]])
    decode.up(7, info(block_size=4, role=Role.DECODE))
    await router._decode.pool.asked()
    decode.refs[7].plays = [[["a", end(1)]]]
    assert await answer(router, prompt=LONG, worker=7) == ["a", end(1)]
    assert len(prefill.refs[0].got) == 1
    assert decode.refs[7].got[0].handover is not None
