"""Where instances go, and in which order they start."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from callboard.supervisor.placement import find_cycle, place, start_levels
from callboard.supervisor.spec import ActorSpec, ProcessSpec


def actor(name: str, *needs: str, replicas: int = 1) -> ActorSpec:
    args: list[Any] = [{"deep": {"ref": need}} for need in needs]
    return ActorSpec(name=name, class_path="m:C", args=tuple(args), replicas=replicas)


def names(actors: list[ActorSpec], processes: list[ProcessSpec]) -> dict[str, list[str]]:
    plans = place(actors, processes, namespace="n")
    return {plan.name: [instance.name for instance in plan.instances] for plan in plans}


def test_an_actor_in_no_process_gets_one_per_instance() -> None:
    assert names([actor("w", replicas=2)], []) == {"w.0": ["w.0"], "w.1": ["w.1"]}


def test_instances_are_dealt_to_the_processes_of_their_group() -> None:
    group = ProcessSpec(name="engine", actors=("w", "x"), count=2)
    assert names([actor("w", replicas=3), actor("x", replicas=2)], [group]) == {
        "engine.0": ["w.0", "w.2", "x.0"],
        "engine.1": ["w.1", "x.1"],
    }


def test_within_a_process_what_is_needed_starts_first() -> None:
    group = ProcessSpec(name="web", actors=("front", "router"))
    placed = names([actor("front", "router"), actor("router", "w.0"), actor("w")], [group])
    assert placed["web.0"] == ["router.0", "front.0"]


def test_index_and_namespace_are_filled_into_the_environment() -> None:
    env = {"GPU": "{index}", "WHO": "{namespace}/{index}", "JSON": '{"a": 1}'}
    group = ProcessSpec(name="g", actors=("w",), count=2, env=env)
    plan = place([actor("w", replicas=2)], [group], namespace="demo")[1]
    assert plan.env == {"GPU": "1", "WHO": "demo/1", "JSON": '{"a": 1}'}


def test_levels_follow_the_references_and_a_reference_to_oneself_is_no_cycle() -> None:
    actors = [actor("front", "router"), actor("router", "w", "router"), actor("w"), actor("lone")]
    assert start_levels(actors) == [["w", "lone"], ["router"], ["front"]]
    assert find_cycle(actors) == []


graphs = st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef")), min_size=1)


@given(graphs)
def test_either_there_is_a_cycle_or_everything_starts_after_what_it_needs(graph: dict[str, set[str]]) -> None:
    actors = [actor(name, *sorted(needs)) for name, needs in graph.items()]
    levels = start_levels(actors)
    assert sorted(name for level in levels for name in level) == sorted(graph)
    cycle = find_cycle(actors)
    if cycle:
        assert cycle[0] == cycle[-1]
        assert all(after in graph[before] for before, after in itertools.pairwise(cycle))
        return
    started: set[str] = set()
    for level in levels:
        for name in level:
            assert graph[name] & graph.keys() - {name} <= started
        started |= set(level)


@given(st.integers(1, 9), st.integers(1, 9))
def test_every_instance_is_placed_once(replicas: int, count: int) -> None:
    group = ProcessSpec(name="g", actors=("w",), count=count)
    placed = [
        name for members in names([actor("w", replicas=replicas)], [group]).values() for name in members
    ]
    assert sorted(placed) == sorted(f"w.{index}" for index in range(replicas))
