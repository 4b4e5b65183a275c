"""The scheduler: who is chosen, who waits, who is refused, and the books that two routers share."""

from __future__ import annotations

from array import array
from collections import Counter
from random import Random
from typing import Any

import pytest

from callboard.serving.protocol import RankLoad
from callboard.serving.scheduling.demand import Choice, Demand, Rank, RankFacts, Refusal, Wait
from callboard.serving.scheduling.replica import RoutingChange
from callboard.serving.scheduling.scheduler import Scheduler
from callboard.serving.scheduling.settings import MODES, RouterSettings

RANKS = [Rank(0), Rank(1), Rank(2)]
BLOCKS = array("Q", range(1, 9))


def scheduler(told: list[RoutingChange] | None = None, **changes: Any) -> Scheduler:
    made = Scheduler(
        RouterSettings(**{"mode": "kv", "prefill_load_scale": 1.0} | changes),
        Random(5),
        tell=told.append if told is not None else None,
    )
    for rank in RANKS:
        made.set_rank(rank, RankFacts(total_blocks=100, max_batch_tokens=64))
    return made


def demand(name: str, tokens: int = 32, sequence: array[int] = BLOCKS, **changes: Any) -> Demand:
    return Demand(id=name, prompt_tokens=tokens, block_size=4, sequence=sequence, **changes)


def place(made: Scheduler, name: str, overlaps: dict[Rank, int] | None = None, **changes: Any) -> Choice:
    choice = made.place(demand(name, **changes), RANKS, overlaps or {}, 0.0)
    assert isinstance(choice, Choice), choice
    return choice


def test_the_worker_with_the_prefix_is_chosen() -> None:
    choice = place(scheduler(), "a", {Rank(1): 6, Rank(2): 2})
    assert choice.rank == Rank(1)
    assert choice.overlap_blocks == 6
    assert choice.costs == {Rank(0): 16.0, Rank(1): 10.0, Rank(2): 14.0}
    assert choice.cost == 10.0


def test_load_outweighs_a_prefix() -> None:
    made = scheduler()
    others = [array("Q", range(100 * n, 100 * n + 8)) for n in range(1, 4)]
    for n, sequence in enumerate(others):
        made.place(demand(f"r{n}", sequence=sequence, pinned=Rank(1)), RANKS, {}, 0.0)
    assert place(made, "a", {Rank(1): 8}).rank != Rank(1)
    for n in range(3):
        made.finish(f"r{n}")
    assert place(made, "b", {Rank(1): 8}).rank == Rank(1)


def test_a_prompt_that_is_computed_elsewhere_costs_no_prefill_where_it_is_decoded() -> None:
    made = scheduler()
    choice = place(made, "a", {Rank(1): 8}, is_computed=True)
    assert set(choice.costs.values()) == {8.0}
    books = made.statistics()["ranks"]
    assert [rank["prefill_tokens"] for rank in books.values()] == [0, 0, 0]
    assert sum(rank["decode_blocks"] for rank in books.values()) == 8


def test_requests_without_a_prefix_spread_evenly() -> None:
    made = scheduler()
    chosen = Counter(
        place(made, f"r{n}", sequence=array("Q", range(100 * n, 100 * n + 8))).rank for n in range(30)
    )
    assert set(chosen.values()) == {10}


def test_the_first_token_ends_the_prefill() -> None:
    made = scheduler(track_active_blocks=False)
    place(made, "a", pinned=Rank(0))
    assert made.statistics()["ranks"]["0/0"]["prefill_tokens"] == 32
    made.first_token("a")
    assert made.statistics()["ranks"]["0/0"]["prefill_tokens"] == 0
    assert place(made, "b").costs == dict.fromkeys(RANKS, 8.0)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "direct"])
def test_every_mode_books_and_gives_back(mode: str) -> None:
    made = scheduler(mode=mode)
    for n in range(9):
        place(made, f"r{n}")
    assert sum(made.outstanding.values()) == 9
    for n in range(9):
        made.finish(f"r{n}")
    made.finish("r0")
    assert made.outstanding == {}
    assert all(not any(books.values()) for books in made.statistics()["ranks"].values())


def test_direct_takes_the_worker_that_is_named_and_no_other() -> None:
    made = scheduler(mode="direct")
    assert place(made, "a", pinned=Rank(2)).rank == Rank(2)
    assert isinstance(made.place(demand("b"), RANKS, {}, 0.0), Refusal)
    refusal = made.place(demand("c", pinned=Rank(7)), RANKS, {}, 0.0)
    assert isinstance(refusal, Refusal)
    assert "worker 7" in refusal.why


def test_a_pin_without_that_rank_takes_another_rank_of_the_worker() -> None:
    assert place(scheduler(), "a", pinned=Rank(1, 5)).rank == Rank(1)


def test_full_workers_refuse() -> None:
    made = scheduler(max_outstanding=1)
    for n in range(3):
        place(made, f"r{n}")
    refusal = made.place(demand("more"), RANKS, {}, 0.0)
    assert isinstance(refusal, Refusal)
    assert "max_outstanding" in refusal.why
    assert "3 workers" in refusal.why
    made.finish("r1")
    assert isinstance(made.place(demand("more"), RANKS, {}, 0.0), Choice)


def test_requests_wait_when_all_have_enough_to_compute() -> None:
    made = scheduler(queue_threshold=0.5)
    for n in range(6):
        place(made, f"r{n}", sequence=array("Q", range(100 * n, 100 * n + 8)), tokens=24)
    assert isinstance(made.place(demand("more"), RANKS, {}, 0.0), Wait)
    made.first_token("r0")
    choice = made.place(demand("more"), RANKS, {}, 0.0)
    assert isinstance(choice, Choice)


def test_a_threshold_never_keeps_an_idle_worker_from_a_long_prompt() -> None:
    assert place(scheduler(queue_threshold=0.0), "a", tokens=1000).rank in RANKS


def test_busy_workers_are_passed_over_and_when_all_are_busy_requests_are_refused() -> None:
    made = scheduler(active_decode_blocks_threshold=0.5)
    load = RankLoad(dp_rank=0, running=1, waiting=0, used_blocks=51, prefill_tokens=0)
    made.report(0, [load])
    made.report(1, [load])
    assert place(made, "a").rank == Rank(2)
    made.report(2, [load])
    refusal = made.place(demand("b"), RANKS, {}, 0.0)
    assert isinstance(refusal, Refusal)
    assert "active_decode_blocks_threshold = 0.5" in refusal.why
    made.remove_worker(1)
    assert place(made, "c").rank == Rank(1)


def test_prefill_thresholds_count_tokens_or_shares_of_a_batch() -> None:
    for knob in ({"active_prefill_tokens_threshold": 31}, {"active_prefill_tokens_threshold_frac": 0.45}):
        made = scheduler(mode="round-robin", **knob)
        for n in range(3):
            place(made, f"r{n}")
        assert isinstance(made.place(demand("b"), RANKS, {}, 0.0), Refusal)
        made.first_token("r0")
        assert place(made, "b").rank == Rank(0)


def test_a_session_stays_where_it_was() -> None:
    made = scheduler(session_affinity_ttl_s=10.0)
    first = place(made, "a", session="s").rank
    other = next(rank for rank in RANKS if rank != first)
    assert place(made, "b", {other: 8}, session="s").rank == first
    rest = [rank for rank in RANKS if rank != first]
    moved = made.place(demand("c", session="s"), rest, {}, 1.0)
    assert isinstance(moved, Choice)
    assert moved.rank in rest
    again = made.place(demand("d", session="s"), RANKS, {}, 2.0)
    assert isinstance(again, Choice)
    assert again.rank == moved.rank


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_a_busy_worker_loses_a_soft_session_and_keeps_a_hard_one_waiting(mode: str) -> None:
    made = scheduler(
        session_affinity_ttl_s=10.0, session_affinity_mode=mode, active_prefill_tokens_threshold=10
    )
    first = place(made, "a", session="s").rank
    second = made.place(demand("b", session="s"), RANKS, {}, 0.0)
    if mode == "hard":
        assert isinstance(second, Wait)
        assert "'s'" in second.why
    else:
        assert isinstance(second, Choice)
        assert second.rank != first


def test_two_routers_that_tell_each_other_do_not_herd() -> None:
    told: tuple[list[RoutingChange], list[RoutingChange]] = ([], [])
    pair = (scheduler(told[0]), scheduler(told[1]))
    chosen: Counter[Rank] = Counter()
    for n in range(30):
        here = n % 2
        sequence = array("Q", range(100 * n, 100 * n + 8))
        chosen[place(pair[here], f"r{n}", sequence=sequence).rank] += 1
        pair[1 - here].apply(here, told[here], 0.0)
        told[here].clear()
    assert set(chosen.values()) == {10}
    for n in range(30):
        pair[n % 2].finish(f"r{n}")
    for here in (0, 1):
        pair[1 - here].apply(here, told[here], 0.0)
    for made in pair:
        assert made.statistics()["remote"] == 0
        assert all(not any(books.values()) for books in made.statistics()["ranks"].values())


def test_a_router_that_comes_later_begins_with_a_snapshot_and_drops_what_a_lost_one_had() -> None:
    first, second = scheduler(session_affinity_ttl_s=9.0), scheduler(session_affinity_ttl_s=9.0)
    rank = place(first, "a", session="s").rank
    second.apply(7, first.snapshot(0.0), 0.0)
    assert second.statistics()["remote"] == 1
    assert place(second, "b", session="s").rank == rank
    second.drop_router(7)
    assert second.statistics()["remote"] == 0
    second.drop_router(7)


def test_what_another_router_says_twice_or_out_of_the_blue_is_harmless() -> None:
    told: list[RoutingChange] = []
    first, second = scheduler(told), scheduler()
    place(first, "a")
    second.apply(1, [*told, *told], 0.0)
    assert second.statistics()["remote"] == 1
    assert second.statistics()["dropped_remote"] == 1
    first.first_token("a")
    first.finish("a")
    second.apply(1, [*told, *told[-1:]], 0.0)
    second.apply(2, told[1:], 0.0)
    assert second.statistics()["remote"] == 0
