"""A trace in virtual time: the same each time, no token lost, and the router's view is the engines' truth."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from callboard.serving.kv.hashing import block_hashes, sequence_hashes
from callboard.serving.scheduling.settings import RouterSettings
from callboard.serving.simulation.replay import Replay, TooLargeForEngine
from callboard.serving.simulation.routing import (
    ORACLES,
    ROUTINGS,
    RouterPlacement,
    RoutingTrial,
    demand_without_cache,
    reusable_share,
    run_routing,
)
from callboard.serving.simulation.settings import SimulatedSettings
from callboard.serving.simulation.trace import TraceSettings, make_trace

TRIAL = RoutingTrial(
    trace=TraceSettings(
        sessions=12,
        turns=3,
        sessions_per_s=4.0,
        system_tokens=(64, 128),
        user_tokens=24,
        answer_tokens=12,
        pause_s=1.0,
    ),
    engines=3,
    engine=SimulatedSettings(
        input="tokens", blocks=64, block_size=8, max_batch_tokens=64, prefill_us_per_token=500, decode_ms=5
    ),
)
TRACE = make_trace(TRIAL.trace)


def test_a_trace_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    assert make_trace(TRIAL.trace) == TRACE
    assert make_trace(replace(TRIAL.trace, seed=1)) != TRACE


def test_each_turn_repeats_all_that_was_said() -> None:
    said: dict[int, bytes] = {}
    for arrival in TRACE:
        before = said.get(arrival.session, b"")
        assert arrival.prompt.startswith(before)
        assert len(arrival.prompt) > len(before)
        said[arrival.session] = arrival.prompt + arrival.answer
    assert len(said) == 12
    assert len(TRACE) == 36
    assert [a.arrival_s for a in TRACE] == sorted(a.arrival_s for a in TRACE)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_answer_is_whole_and_no_token_is_lost(routing: str) -> None:
    result, replay = run_routing(routing, TRACE, TRIAL)
    for request in replay.requests:
        assert bytes(request.running.tokens) == request.arrival.prompt + request.arrival.answer
        assert request.arrival.arrival_s < request.first_token_s <= request.finished_s
    for engine in replay.engines:
        assert engine.batcher.idle
        assert not engine.requests
        assert engine.batcher.pool.used == 0
    # The first token of an answer comes from the prompt's last step, each other one from a step of its own.
    prompts = sum(request.arrival.prompt_tokens - request.running.cached for request in replay.requests)
    others = sum(request.arrival.answer_tokens - 1 for request in replay.requests)
    if not result.preemptions:
        assert result.computed_tokens == prompts + others
    assert result.computed_tokens >= prompts + others
    assert result.load_spread >= 1
    assert 0 <= result.hit_rate <= reusable_share(TRACE, 8)


def test_the_figures_are_the_same_each_time() -> None:
    for routing in ROUTINGS:
        assert run_routing(routing, TRACE, TRIAL)[0] == run_routing(routing, TRACE, TRIAL)[0]


def test_with_the_caches_known_more_is_found_in_them_than_by_turns() -> None:
    results = {routing: run_routing(routing, TRACE, TRIAL)[0] for routing in ROUTINGS}
    assert results["kv"].hit_rate > results["round-robin"].hit_rate
    for oracle in ORACLES:
        assert results[oracle].hit_rate > results["round-robin"].hit_rate


def test_what_the_router_believes_is_what_the_engines_have() -> None:
    small = replace(TRIAL.engine, blocks=48)
    placement = RouterPlacement(RouterSettings(mode="kv"), 8, Random(1), is_oracle=False)
    placement.start(small, 3)
    replay = Replay(TRACE, placement, small, engines=3, event_delay_s=0.01)
    replay.run()
    evicted = 0
    for engine in replay.engines:
        assert placement.believes(engine.number) == engine.batcher.pool.resident()
        evicted += engine.computed_tokens // 8 - len(engine.batcher.pool.resident())
    assert evicted > 0


def test_a_request_that_no_engine_can_hold_is_named() -> None:
    with pytest.raises(TooLargeForEngine, match=r"an engine holds 32 \(4 blocks of 8\)"):
        run_routing("kv", TRACE, replace(TRIAL, engine=replace(TRIAL.engine, blocks=4)))


def test_the_load_is_the_time_of_all_prompts_over_that_of_all_engines() -> None:
    tokens = sum(arrival.prompt_tokens for arrival in TRACE)
    assert demand_without_cache(TRACE, TRIAL) == pytest.approx(tokens * 0.0005 / (3 * TRACE[-1].arrival_s))
    assert demand_without_cache([], TRIAL) == 0


def test_one_cache_for_all_hits_what_was_ever_said() -> None:
    seen: set[int] = set()
    for arrival in TRACE:
        seen.update(sequence_hashes(block_hashes(arrival.prompt, 8)))
    first = TRACE[0]
    assert reusable_share([first], 8) == 0
    assert reusable_share([first, first], 8) == pytest.approx(
        (first.prompt_tokens - 1) // 8 * 8 / (2 * first.prompt_tokens)
    )
