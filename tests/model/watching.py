"""Death watches: who watches whom, and whether they hear what they must, once."""

from __future__ import annotations

from collections.abc import Iterator

from callboard.actors.departed import Fate
from callboard.actors.watches import Watching

from .reference import Watched
from .world import World


class Watchers:
    """All watches of one example."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: dict[Watched, Watching] = {}

    def watch(self, watcher: str, actor: str) -> None:
        """Watch the incarnation that the watcher's node knows."""
        world, process = self._world, self._world.processes[watcher]
        node = process.node
        location = node.location(actor) or node.directory.get(actor)
        watched = Watched(node.id, process.name, actor, location.incarnation if location else 0)
        world.report(world.reference.watches, watched)

        def told(fate: Fate) -> None:
            if process.alive:
                world.report(world.reference.told, watched, fate.incarnation, fate.kind.value)

        with world.clock.inside():
            self._open[watched] = node.watches.watch(actor, told)

    def cancel(self, which: int) -> None:
        """Watch no more."""
        watched, watching = self.open()[which % len(self.open())]
        watched.cancelled = True
        self._world.reference.note(f"{watched} is cancelled")
        watching.cancel()

    def open(self) -> list[tuple[Watched, Watching]]:
        """Watches that have heard nothing yet, of nodes that live."""
        alive = {process.node.id for process in self._world.living()}
        return [
            (watched, watching)
            for watched, watching in self._open.items()
            if not watched.over and watched.node in alive
        ]

    def silent(self) -> Iterator[str]:
        """Watches of who is down, although everybody was told."""
        for watched, _ in self.open():
            if self._world.reference.is_down(watched):
                yield f"{watched} has heard nothing"

    def left(self) -> Iterator[str]:
        """Entries of watches that are over."""
        for process in self._world.living():
            count = sum(watched.node == process.node.id for watched, _ in self.open())
            if len(process.node.watches) != count:
                yield f"{process.name}: {process.node.watches}, {count} are open"
