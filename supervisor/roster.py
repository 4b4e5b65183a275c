"""Who can be reached where: the supervisor's truth, pushed to everybody who follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from callboard.actors.departed import Departed
from callboard.actors.directory import Location
from callboard.actors.node import Node
from callboard.actors.policy import DownKind
from callboard.transports.durable import DurablePolicy
from callboard.transports.events.base import Source

from . import control

Push = (
    control.DirectoryAdd
    | control.DirectoryRemove
    | control.NodeDown
    | control.SourceAdd
    | control.SourceRemove
    | control.DeclareDurable
)
Follower = Callable[[Push], object]


def apply(push: Push, node: Node) -> None:
    """Carry a change out on a node that follows."""
    match push:
        case control.DirectoryAdd(locations):
            for fields in locations:
                node.add_location(Location.from_wire(fields))
        case control.DirectoryRemove(name, incarnation, reason, kind):
            node.remove_location(name, incarnation, reason, kind)
        case control.NodeDown(gone, reason, kind):
            node.node_down(gone, reason, kind)
        case control.SourceAdd(sources):
            for fields in sources:
                node.sources.add(Source.from_wire(fields))
        case control.SourceRemove(identifier, reason):
            node.sources.remove(identifier, reason)
        case control.DeclareDurable(components):
            node.durables.declare({n: DurablePolicy.from_wire(policy) for n, policy in components.items()})


class Roster:
    """All locations of a system. Followers are told of every change, in order."""

    def __init__(self) -> None:
        self._up: dict[str, Location] = {}
        self._down = Departed()
        self._durable: dict[str, DurablePolicy] = {}
        self._sources: dict[int, Source] = {}
        self._away: set[str] = set()
        """Nodes that may come back, with their sources."""
        self._followers: list[tuple[str, Follower]] = []

    def follow(self, follower: Follower, *, node: str = "") -> Callable[[], None]:
        """Tell ``follower`` everything that is known and every change; returns the function that ends it.

        ``node`` is its own id: what happens there it knows better.
        """
        entry = (node, follower)
        self._followers.append(entry)
        if self._durable:
            follower(_declaration(self._durable))
        others = [location.to_wire() for location in self._up.values() if location.node != node]
        if others:
            follower(control.DirectoryAdd(others))
        for name, (incarnation, kind, reason) in self._down.fates():
            follower(control.DirectoryRemove(name, incarnation, reason, kind))
        hidden = {node, *self._away}
        if sources := [one.to_wire() for one in self._sources.values() if one.node not in hidden]:
            follower(control.SourceAdd(sources))
        return lambda: self._followers.remove(entry) if entry in self._followers else None

    def declare(self, policies: Mapping[str, DurablePolicy]) -> None:
        """Tells to these components are stored. Raises `ConfigError` if the plane stores none."""
        if policies:
            self._push(_declaration(policies), "")
            self._durable.update(policies)

    def add(self, *locations: Location) -> None:
        """These can be reached now."""
        for location in locations:
            self._up[location.name] = location
            self._down.drop(location.name)
            self._push(control.DirectoryAdd([location.to_wire()]), location.node)

    def told(self, message: control.Publishes | control.PublishesNoMore) -> None:
        """A process says what it publishes."""
        if isinstance(message, control.Publishes):
            self.publishes(Source.from_wire(message.source))
        else:
            self.publishes_no_more(message.id)

    def attach(self, node: Node) -> None:
        """Have a node of this process follow, and be heard."""
        self.follow(lambda push: apply(push, node), node=node.id)
        node.sources.announce = self.publishes
        node.sources.withdraw = lambda source: self.publishes_no_more(source.id)

    def publishes(self, source: Source) -> None:
        """A source of events begins."""
        self._sources[source.id] = source
        if source.node not in self._away:
            self._push(control.SourceAdd([source.to_wire()]), source.node)

    def publishes_no_more(self, identifier: int) -> None:
        """A source of events ended."""
        source = self._sources.pop(identifier, None)
        if source is not None:
            self._push(control.SourceRemove(identifier, "its publisher was closed"), source.node)

    def remove(self, name: str, incarnation: int, reason: str, kind: DownKind = DownKind.UNKNOWN) -> None:
        """One can no longer be reached; a newer incarnation stays."""
        present = self._up.get(name)
        if present is not None and present.incarnation <= incarnation:
            del self._up[name]
            self._down.note(name, incarnation, reason, kind)
            self._push(control.DirectoryRemove(name, incarnation, reason, kind), present.node)

    def node_down(self, node: str, reason: str, kind: DownKind = DownKind.UNKNOWN) -> None:
        """Nothing on this node can be reached any more."""
        for location in self.on_node(node):
            del self._up[location.name]
            self._down.note(location.name, location.incarnation, reason, kind)
        if kind is DownKind.UNREACHABLE:
            self._away.add(node)
        else:
            self._away.discard(node)
            self._sources = {key: source for key, source in self._sources.items() if source.node != node}
        self._push(control.NodeDown(node, reason, kind), node)

    def node_back(self, node: str) -> None:
        """A node that could not be reached can be again: its sources go on. What it runs is told by `add`."""
        self._away.discard(node)
        if sources := [source.to_wire() for source in self._sources.values() if source.node == node]:
            self._push(control.SourceAdd(sources), node)

    def on_node(self, node: str) -> list[Location]:
        """What can be reached on a node."""
        return [location for location in self._up.values() if location.node == node]

    def instances(self, name: str) -> list[Location]:
        """What a name, of an instance or a component, stands for now."""
        exact = self._up.get(name)
        if exact is not None:
            return [exact]
        return [location for known, location in self._up.items() if known.rpartition(".")[0] == name]

    def _push(self, message: Push, node: str) -> None:
        for own, follower in tuple(self._followers):
            if not node or own != node:
                follower(message)

    def __repr__(self) -> str:
        return f"<Roster {len(self._up)} up, {len(self._down)} down, {len(self._followers)} followers>"


def _declaration(policies: Mapping[str, DurablePolicy]) -> control.DeclareDurable:
    return control.DeclareDurable({name: policy.to_wire() for name, policy in policies.items()})
