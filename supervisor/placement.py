"""Which instance runs in which process, and in which order they start. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from callboard.actors.directory import split_name
from callboard.transports.durable import DurablePolicy

from .spec import ActorSpec, ProcessSpec

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
PLACEHOLDERS = ("index", "namespace")


@dataclass(frozen=True, slots=True)
class Instance:
    """One actor to run: instance ``index`` of the component that ``spec`` describes."""

    spec: ActorSpec
    index: int
    before: int = 0
    """The last incarnation that another place of this name had."""

    @property
    def name(self) -> str:
        """``component.index``."""
        return f"{self.spec.name}.{self.index}"


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One process to run: process ``index`` of its group, its actors in start order, its own environment."""

    group: str
    index: int
    instances: tuple[Instance, ...]
    env: Mapping[str, str]
    template: Mapping[str, str] = field(default_factory=dict)
    """``env`` before its placeholders were filled in, for processes of the group that are added later."""
    before: int = 0
    """The last incarnation that another place of this name had."""

    @property
    def name(self) -> str:
        """``group.index``."""
        return f"{self.group}.{self.index}"


def substitute(text: str, *, index: int, namespace: str) -> str:
    """Fill ``{index}`` and ``{namespace}`` in.

    >>> substitute("gpu {index} of {namespace}", index=3, namespace="demo")
    'gpu 3 of demo'
    """
    values = {"index": str(index), "namespace": namespace}
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def with_defaults(actors: Iterable[ActorSpec], processes: Iterable[ProcessSpec]) -> list[ProcessSpec]:
    """The groups, and for each actor that is in none a group of its own with a process per instance."""
    groups = list(processes)
    placed = {name for group in groups for name in group.actors}
    alone = [actor for actor in actors if actor.name not in placed]
    return groups + [ProcessSpec(name=a.name, actors=(a.name,), count=a.replicas) for a in alone]


def place(
    actors: Iterable[ActorSpec], processes: Iterable[ProcessSpec], *, namespace: str
) -> list[ProcessPlan]:
    """Deal the instances of each actor to the processes of its group: i goes to process i modulo count."""
    specs = {actor.name: actor for actor in actors}
    order = {name: level for level, names in enumerate(start_levels(specs.values())) for name in names}
    plans = []
    for group in with_defaults(specs.values(), processes):
        members = sorted((specs[name] for name in group.actors), key=lambda spec: order[spec.name])
        for index in range(group.count):
            instances = [Instance(s, i) for s in members for i in range(index, s.replicas, group.count)]
            env = {key: substitute(text, index=index, namespace=namespace) for key, text in group.env.items()}
            plans.append(ProcessPlan(group.name, index, tuple(instances), env, group.env))
    return plans


def durable_policies(plans: Iterable[ProcessPlan]) -> dict[str, DurablePolicy]:
    """The components to run whose tells are stored."""
    specs = {instance.spec.name: instance.spec for plan in plans for instance in plan.instances}
    return {name: spec.durable for name, spec in specs.items() if spec.durable is not None}


def dependencies(actors: Iterable[ActorSpec]) -> dict[str, set[str]]:
    """For each actor the others that its arguments refer to, as far as they are among ``actors``."""
    specs = {actor.name: actor for actor in actors}
    return {
        name: {component for ref in spec.references() if (component := component_of(ref, specs)) != name}
        & set(specs)
        for name, spec in specs.items()
    }


def component_of(name: str, components: Iterable[str]) -> str:
    """The component that ``name`` (of a component or of an instance) belongs to."""
    return name if name in components else split_name(name)[0]


def start_levels(actors: Iterable[ActorSpec]) -> list[list[str]]:
    """Actors in groups that can start together, each after those that it refers to.

    What is in a cycle has no order; it comes last (a config with one is refused, see `find_cycle`).
    """
    waiting = dependencies(actors)
    levels = []
    while waiting:
        level = [name for name, needs in waiting.items() if not needs & waiting.keys()] or list(waiting)
        levels.append(level)
        for name in level:
            del waiting[name]
    return levels


def find_cycle(actors: Iterable[ActorSpec]) -> list[str]:
    """A cycle of references as ``[a, b, a]``, or an empty list."""
    needs = dependencies(actors)
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for needed in sorted(needs[name]):
            if cycle := visit(needed, [*path, name]):
                return cycle
        done.add(name)
        return []

    return next((cycle for name in needs if (cycle := visit(name, []))), [])
