"""What must be true of the nodes themselves: bounds at any time, and nothing left once nothing is open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from callboard.actors.node import Node
from callboard.actors.origin import Origin
from callboard.actors.pending import INFINITE

from .watching import Watchers
from .world import STREAM_WINDOW, World


def check(world: World) -> None:
    """Raise the breach that was reported, or that the nodes show now."""
    if world.breach is None:
        for text in [*_strays(world), *_over_bounds(world)]:
            world.breach = world.breach or world.reference.breach(text)
    if world.breach is not None:
        raise world.breach


def quiet(world: World, watchers: Watchers) -> None:
    """Let everything settle; then what has left must be gone, and if nothing is open nothing may be left."""
    world.clock.settle()
    faulty = frozenset(process.name for process in world.living() if process.faulty)
    unsure = faulty | frozenset(world.unburied)
    world.report(world.reference.quiet, faulty=unsure)
    check(world)
    reference = world.reference
    is_open = any(
        (message.sent and not message.over) or message.open_runs for message in reference.messages.values()
    )
    if not (unsure or world.chores):
        for text in watchers.silent():
            raise reference.breach(text)
    if not (is_open or unsure or world.chores):
        for text in [*left(world), *watchers.left()]:
            raise reference.breach(f"nothing is open, and something is left: {text}")


def finish(world: World, watchers: Watchers) -> None:
    """Heal, let go, wait, and see that everything ends; then that everybody can still be asked; then close."""
    world.heal()
    world.gates.release_all()
    for name in list(world.unburied):
        world.bury(name)
    quiet(world, watchers)
    world.clock.advance(12)
    world.revive()
    quiet(world, watchers)
    _leave_for_ever(world)
    quiet(world, watchers)
    dropped = sum(process.node.dropped_tells for process in world.living())
    world.report(world.reference.finished, dropped)
    check(world)
    _probe(world, watchers)
    quiet(world, watchers)
    while watchers.open():
        watchers.cancel(0)
    quiet(world, watchers)
    close(world)
    check(world)
    tasks = asyncio.all_tasks(world.clock.loop)
    if tasks:
        raise world.reference.breach(f"every node was closed, and tasks are left: {tasks}")


def _leave_for_ever(world: World) -> None:
    """A stream with ``OnDown.WAIT`` and no deadline that failed twice waits for news of its actor, which never come."""
    if any(life.troubled for lives in world.reference.lives.values() for life in lives):
        for task, message in world.callers():
            endless = message.kind == "stream" and message.deadline_s == INFINITE
            if endless and not (message.known or message.runs):
                message.cancelled = True
                task.cancel()


def close(world: World) -> None:
    """End every node."""
    for process in world.living():
        world.chore(process.node.close(grace_s=0.1))
    world.clock.settle()
    world.clock.advance(5)


def _probe(world: World, watchers: Watchers) -> None:
    """Every actor that should be up answers everybody, more often than its window is wide."""
    for actor in world.reference.lives:
        life = world.reference.current(actor)
        if life is None:
            continue
        life.troubled = ""
        for process in world.living():
            for _ in range(life.limit + 1):
                deadline_s = world.clock.now_s + 10
                world.asks(world.message("ask", process.name, actor, "quick", deadline_s=deadline_s))
                quiet(world, watchers)
    for message in world.reference.messages.values():
        if not message.over and message.sent:
            raise world.reference.breach(f"{message}, in the end, has no outcome")


def _strays(world: World) -> Iterator[str]:
    for stray in world.clock.strays:
        yield f"an error that only the event loop saw: {stray}"


def _over_bounds(world: World) -> Iterator[str]:
    """A mailbox holds its limit, and what came with credit where the policy may not drop that.

    Credit is per link: what was told through one that has gone still waits, beside what comes with the next.
    """
    for process in world.living():
        senders = 1 + process.server.statistics().links_opened
        for cell in process.node.cells.values():
            policy = cell.mailbox.policy
            most = policy.messages * (senders if policy.waits else 1)
            if len(cell.mailbox) > most:
                yield f"the mailbox of {cell.location.name} holds {len(cell.mailbox)}, {most} at most"
    for message in world.reference.messages.values():
        for run in message.runs:
            if message.kind == "stream" and run.produced - message.arrived > 2 * STREAM_WINDOW:
                yield f"{message} has produced {run.produced}, and {message.arrived} were read"


def left(world: World) -> Iterator[str]:
    """Say what the nodes hold, although nothing is open."""
    for process in world.living():
        node = process.node
        for what in _of_node(node):
            yield f"{process.name}: {what}"
        for peer in node._peers.values():
            far = next((other.node for other in world.living() if other.node.id == peer.node), None)
            for what in _of_peer(node, peer, far):
                yield f"{process.name}: {what}"


def _of_node(node: Node) -> Iterator[str]:
    counts = node.statistics()
    for name in ("open_asks", "open_streams"):
        if counts[name]:
            yield f"{name} is {counts[name]}"
    if node.pending.calls or node.readers or node._local.calls:
        yield f"calls {node.pending.calls}, readers {node.readers}, local letters {node._local.calls}"
    for session in node._sessions.values():
        if isinstance(session, Origin):
            if session.calls or not session.outbox.idle:
                yield f"{session}, {session.outbox}"
            for inlet in session.inlets.values():
                if inlet.withheld:
                    yield f"credit withheld for {inlet.cell}"
    for cell in node.cells.values():
        mailbox = cell.mailbox
        if len(mailbox) or mailbox.bytes or mailbox.lent or cell.running or cell.drainers:
            yield f"{cell}, {mailbox}"
        if cell.rooms or cell.reserved or cell.queued:
            yield f"{cell}: {len(cell.rooms)} wait for room, {cell.reserved} places are kept, {cell.queued}"


def _of_peer(node: Node, peer, far: Node | None) -> Iterator[str]:
    if not peer.idle:
        yield f"{peer} is not idle: {peer.outbox}"
    for number, outlet in peer.outlets.items():
        location = outlet.location
        if node.directory.get(location.name) is not location:
            yield f"{outlet}, the way to an incarnation that is over"
            continue
        if outlet._backlog or outlet._rooms or outlet._reserved or outlet.crowded or outlet._waiting_bytes:
            yield f"{outlet}: {outlet._rooms} {outlet._reserved} {outlet.crowded} {outlet._waiting_bytes}"
        owed = [
            session.inlets[number]
            for session in (far._sessions.values() if far else ())
            if isinstance(session, Origin) and session.link.peer.node == node.id and number in session.inlets
        ]
        messages = outlet._credit + sum(inlet.count for inlet in owed)
        size = outlet._bytes + sum(inlet.bytes for inlet in owed)
        if (messages, size) != (location.window, location.window_bytes):
            yield (
                f"credit of {location.name}: {messages} of {location.window} messages,"
                f" {size} of {location.window_bytes} bytes"
            )
