"""The parts that a scheduler is made of: cost, policies, books, breaker, affinity, queue. All pure."""

from __future__ import annotations

from array import array
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.serving.scheduling.active import ActiveRequests, Placed
from callboard.serving.scheduling.affinity import SessionAffinity
from callboard.serving.scheduling.breaker import FIRST_EAGER_S, Breaker
from callboard.serving.scheduling.cost import Weights, cheapest, cost
from callboard.serving.scheduling.demand import Rank
from callboard.serving.scheduling.policies import LeastLoaded, PowerOfTwo, RoundRobin, Uniform, make_policy
from callboard.serving.scheduling.queue import WaitingQueue
from callboard.serving.scheduling.settings import MODES, RouterSettings, router_settings
from callboard.transports.errors import ConfigError

RANKS = [Rank(0), Rank(1), Rank(1, 1), Rank(3)]


DEFAULTS = Weights()


def one_cost(weights: Weights = DEFAULTS, **changes: float) -> float:
    facts = {
        "request_blocks": 10.0, "waiting_blocks": 0.0, "least_waiting_blocks": 0.0, "overlap_blocks": 0.0,
        "decode_blocks": 0.0, "active_requests": 0,
    }  # fmt: skip
    return cost(weights, **facts | changes)  # type: ignore[arg-type]


def test_with_the_defaults_a_cost_is_what_must_be_computed_and_what_is_held() -> None:
    assert one_cost(waiting_blocks=4, overlap_blocks=6, decode_blocks=3, active_requests=7) == 10 + 4 - 6 + 3


def test_the_example_of_dynamos_documentation_is_won_by_the_same_worker() -> None:
    costs = {
        1: one_cost(overlap_blocks=2, decode_blocks=10),
        2: one_cost(overlap_blocks=5, decode_blocks=5),
        3: one_cost(overlap_blocks=8, decode_blocks=9),
    }
    assert costs == {1: 18, 2: 10, 3: 11}
    assert cheapest(costs, 0.0, Random(1)) == 2


def test_no_credit_makes_a_cost_negative() -> None:
    assert one_cost(Weights(overlap_score_credit=3.0), overlap_blocks=10) == 0


def test_credit_decays_with_what_waits_beyond_the_least_loaded() -> None:
    weights = Weights(overlap_score_credit_decay=1.0)
    assert one_cost(weights, overlap_blocks=8, waiting_blocks=2, least_waiting_blocks=2) == 12 - 8
    assert one_cost(weights, overlap_blocks=8, waiting_blocks=12, least_waiting_blocks=2) == 22 - 8 / 2


def test_active_requests_and_prefill_count_by_their_weights() -> None:
    weights = Weights(prefill_load_scale=0.5, decode_active_request_weight=2.0)
    assert one_cost(weights, decode_blocks=1, active_requests=3) == 5 + 1 + 6


def test_equal_costs_are_drawn_from() -> None:
    rng = Random(7)
    drawn = Counter(cheapest({"a": 1.0, "b": 1.0, "c": 2.0}, 0.0, rng) for _ in range(400))
    assert set(drawn) == {"a", "b"}
    assert min(drawn.values()) > 150


def test_a_temperature_draws_by_cost() -> None:
    rng = Random(7)
    drawn = Counter(cheapest({"a": 0.0, "b": 5.0, "c": 10.0}, 0.5, rng) for _ in range(2000))
    assert drawn["a"] > drawn["b"] > drawn["c"] > 0
    equal = Counter(cheapest({"a": 1.0, "b": 1.0}, 0.5, rng) for _ in range(400))
    assert min(equal.values()) > 150


def test_turns_go_on_over_whoever_came_and_went() -> None:
    policy = RoundRobin()
    assert [policy.pick(RANKS, {}) for _ in range(5)] == [*RANKS, RANKS[0]]
    assert policy.pick([Rank(1), Rank(3)], {}) == Rank(1)
    assert policy.pick([Rank(0), Rank(2)], {}) == Rank(2)
    assert policy.pick([Rank(0), Rank(2)], {}) == Rank(0)


def test_the_least_loaded_is_taken_and_equals_take_turns() -> None:
    policy = LeastLoaded()
    running = {Rank(0): 2, Rank(1): 1, Rank(1, 1): 1, Rank(3): 5}
    assert [policy.pick(RANKS, running) for _ in range(3)] == [Rank(1), Rank(1, 1), Rank(1)]


def test_power_of_two_never_takes_the_most_loaded() -> None:
    policy = PowerOfTwo(Random(3))
    running = {Rank(0): 0, Rank(1): 1, Rank(1, 1): 2, Rank(3): 9}
    drawn = Counter(policy.pick(RANKS, running) for _ in range(500))
    assert Rank(3) not in drawn
    assert set(drawn) == {Rank(0), Rank(1), Rank(1, 1)}
    assert policy.pick([Rank(3)], running) == Rank(3)


def test_random_takes_everybody() -> None:
    policy = Uniform(Random(3))
    assert set(Counter(policy.pick(RANKS, {}) for _ in range(200))) == set(RANKS)


def test_each_mode_has_a_policy() -> None:
    for mode in MODES:
        assert make_policy(mode, Random(1)).pick(RANKS, {}) in RANKS


def test_bad_settings_are_all_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RouterSettings(
            mode="round_robin", temperature=-1.0, queue_policy="lifo", migration_limit=-1, wait_s="1"
        )  # type: ignore[arg-type]
    text = str(caught.value)
    for part in (
        '"round_robin"',
        "round-robin",
        "temperature is -1.0",
        '"lifo"',
        "migration_limit is -1",
        "wait_s is '1'",
    ):
        assert part in text
    with pytest.raises(ConfigError, match="temperature"):
        router_settings({"temprature": 1.0})


# -- the books

BLOCKS = [array("Q", [100 * base + depth for depth in range(6)]) for base in range(3)]


def placed(rank: Rank, sequence: array[int], prefill_tokens: int = 5, extra: int = 1) -> Placed:
    return Placed(rank, sequence, len(sequence) + extra, prefill_tokens)


def test_blocks_that_requests_share_count_once() -> None:
    active, rank = ActiveRequests(), Rank(0)
    active.add("a", placed(rank, BLOCKS[0]))
    assert active.would_hold(rank, BLOCKS[0], 7) == 8
    assert active.would_hold(rank, BLOCKS[1], 7) == 14
    assert active.would_hold(Rank(1), BLOCKS[0], 7) == 7
    active.add("b", placed(rank, BLOCKS[0][:3]))
    assert active.on(rank).blocks == 6 + 2
    active.end("a")
    assert active.on(rank).blocks == 3 + 1
    active.end("b")
    assert active.on(rank).blocks == 0
    assert len(active) == 0


def test_a_request_counts_as_prefill_until_its_first_token() -> None:
    active, rank = ActiveRequests(), Rank(0)
    active.add("a", placed(rank, BLOCKS[0], 50))
    active.add("b", placed(rank, BLOCKS[1], 7))
    assert active.on(rank).prefill_tokens == 57
    assert active.first_token("a")
    assert not active.first_token("a")
    assert not active.first_token("nobody")
    assert active.on(rank).prefill_tokens == 7
    active.end("b")
    assert active.on(rank).prefill_tokens == 0


def test_answers_fill_blocks_of_their_own() -> None:
    active, rank = ActiveRequests(), Rank(0)
    active.add("a", placed(rank, BLOCKS[0]))
    for _ in range(9):
        active.output("a", 1, 4)
    assert active.on(rank).blocks == 7 + 2
    active.end("a")
    assert active.on(rank).blocks == 0


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_books_are_those_of_the_requests_that_run(data: st.DataObject) -> None:
    active = ActiveRequests()
    running: dict[str, tuple[Rank, array[int], int]] = {}
    for step in range(data.draw(st.integers(1, 25))):
        if running and data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(running)))
            del running[name]
            assert active.end(name)
        else:
            rank = data.draw(st.sampled_from(RANKS))
            sequence = BLOCKS[data.draw(st.integers(0, 2))][: data.draw(st.integers(0, 6))]
            tokens = data.draw(st.integers(0, 9))
            running[f"r{step}"] = (rank, sequence, tokens)
            active.add(f"r{step}", placed(rank, sequence, tokens))
        for rank in RANKS:
            mine = [entry for entry in running.values() if entry[0] == rank]
            shared = {block for _, sequence, _ in mine for block in sequence}
            view = active.on(rank)
            assert (view.requests, view.prefill_tokens) == (len(mine), sum(tokens for _, _, tokens in mine))
            assert view.blocks == len(shared) + len(mine)
            for sequence in BLOCKS:
                assert active.would_hold(rank, sequence, 6) == view.blocks + len(set(sequence) - shared)


# -- breaker


def test_a_worker_that_failed_gets_nothing_then_one_probe() -> None:
    breaker = Breaker(5.0, 60.0)
    breaker.failed(0, 100.0)
    assert breaker.allowed([0, 1], 104.9) == [1]
    assert breaker.inhibited == [0]
    assert breaker.allowed([0, 1], 105.0) == [0, 1]
    breaker.chosen(0)
    assert breaker.allowed([0, 1], 105.0) == [1]
    breaker.succeeded(0)
    assert breaker.allowed([0, 1], 105.0) == [0, 1]
    assert breaker.inhibited == []


def test_each_failed_probe_doubles_the_pause_up_to_the_limit() -> None:
    breaker, now_s, pauses = Breaker(5.0, 60.0), 0.0, []
    for _ in range(6):
        breaker.failed(0, now_s)
        until_s = now_s
        while breaker.allowed([0, 1], until_s) == [1]:
            until_s += 1.0
        pauses.append(until_s - now_s)
        now_s = until_s
        breaker.chosen(0)
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_requests_that_fail_together_are_one_failure() -> None:
    breaker = Breaker(5.0, 60.0)
    for _ in range(64):
        breaker.failed(0, 100.0)
    assert breaker.inhibitions == 1
    assert breaker.allowed([0, 1], 105.0) == [0, 1]


def test_a_single_worker_is_probed_soon_by_one_request_at_a_time() -> None:
    breaker = Breaker(5.0, 60.0)
    breaker.failed(0, 100.0)
    assert breaker.allowed([0], 100.0) == []
    assert breaker.next_change_s([0], 100.0) == pytest.approx(100.0 + FIRST_EAGER_S)
    at_s = 100.0 + FIRST_EAGER_S
    assert breaker.allowed([0], at_s) == [0]
    breaker.chosen(0)
    assert breaker.allowed([0], at_s) == []
    assert breaker.next_change_s([0], 100.0) is None
    breaker.failed(0, at_s)
    assert breaker.next_change_s([0], 100.0) == pytest.approx(at_s + 2 * FIRST_EAGER_S)


def test_a_probe_whose_caller_left_is_followed_by_another() -> None:
    breaker = Breaker(5.0, 60.0)
    breaker.failed(0, 0.0)
    breaker.chosen(0)
    breaker.abandoned(0)
    assert breaker.allowed([0, 1], 5.0) == [0, 1]


def test_without_inhibition_everybody_is_always_allowed() -> None:
    breaker = Breaker(0.0, 60.0)
    breaker.failed(0, 0.0)
    assert breaker.allowed([0, 1], 0.0) == [0, 1]


# -- affinity, queue


def test_sessions_are_bounded_in_time_and_number() -> None:
    affinity = SessionAffinity(10.0, 2)
    affinity.bind("a", Rank(1), 0.0)
    affinity.bind("b", Rank(2), 1.0)
    affinity.bind("a", Rank(1), 2.0)
    affinity.bind("c", Rank(3), 3.0)
    assert [affinity.where(name, 3.0) for name in "abc"] == [Rank(1), None, Rank(3)]
    assert affinity.where("a", 12.0) == Rank(1)
    assert affinity.where("a", 12.1) is None
    affinity.bind("d", Rank(0), 20.0)
    assert affinity.items(20.0) == [("d", Rank(0))]
    assert affinity.forgotten == 3


def test_requests_wait_in_the_order_of_their_arrival_and_priority() -> None:
    queue: WaitingQueue[str] = WaitingQueue("fcfs", 10)
    for name, arrived_s, priority in [("a", 1.0, 0), ("b", 2.0, 0), ("c", 3.0, 5), ("d", 2.0, 0)]:
        queue.push(name, arrived_s=arrived_s, priority=priority, uncached_tokens=1)
    assert queue.in_order() == ["c", "a", "b", "d"]


def test_short_prompts_pass_long_ones_under_wspt() -> None:
    queue: WaitingQueue[str] = WaitingQueue("wspt", 10)
    for name, tokens, priority in [("long", 1000, 0), ("short", 10, 0), ("dear", 1000, 999), ("none", 0, 0)]:
        queue.push(name, arrived_s=0.0, priority=priority, uncached_tokens=tokens)
    assert queue.in_order() == ["dear", "none", "short", "long"]


def test_the_queue_is_bounded_and_who_leaves_makes_room() -> None:
    queue: WaitingQueue[int] = WaitingQueue("fcfs", 3)
    tickets = [queue.push(n, arrived_s=n, priority=0, uncached_tokens=1) for n in range(3)]
    assert queue.full
    with pytest.raises(OverflowError, match="3"):
        queue.push(3, arrived_s=3, priority=0, uncached_tokens=1)
    queue.leave(tickets[0])
    queue.leave(tickets[2])
    assert len(queue) == 1
    assert not queue.full
    assert queue.in_order() == [1]
    queue.leave(tickets[1])
    assert len(queue) == 0
