"""One process of a system: its event loop, its actors, and the links to the other nodes.

The node is where the parts meet; it decides little itself. Downwards it is the `LinkHandler` of the planes. Upwards
it starts and stops actors and is told by a supervisor what is where.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict
from time import monotonic
from typing import Any, TypeVar

from callboard.transports.base import Identity, Link
from callboard.transports.errors import CallboardError, TransportError
from callboard.transports.manager import NetworkManager
from callboard.transports.settings import NetworkSettings

from .actor import Actor, objection
from .building import build, must_be_starting
from .cell import Cell
from .checked import CheckedOrigin
from .codec import Codec
from .counted import counted
from .current import CURRENT
from .deadlines import Sweeper
from .directory import DEFAULT_WINDOW, DEFAULT_WINDOW_BYTES, Directory, Location
from .durable import Durables
from .ending import Stop
from .errors import ActorStopped, ActorUnavailable, StartFailed
from .events import NodeEvents
from .first_items import FirstItems
from .local import LocalOrigin
from .origin import Origin
from .outbox import Outbox
from .outside import endpoint_of
from .peer import Peer
from .policy import DownKind, Executed, MailboxPolicy, State, StopReason
from .ref import Ref
from .resolving import resolving
from .sources import Sources
from .stream import Reader
from .target import Route, Target, Targets
from .watches import Watches

A = TypeVar("A", bound=Actor)

LIMIT_SETTING = "network.max_message_bytes (DYN_TCP_MAX_MESSAGE_SIZE)"

log = logging.getLogger("callboard.actors")


class Node:
    """A process's part of a system. Not thread-safe: everything happens on its event loop.

    With ``listen=False`` it can call others but nobody can call its actors. With ``plain_objects`` it receives
    objects as their fields, and needs none of their classes. With ``supervised`` somebody tells it what goes down, so
    that a way that breaks proves nothing at once to who watches an actor.
    """

    def __init__(
        self,
        *,
        name: str,
        namespace: str = "default",
        incarnation: int = 1,
        settings: NetworkSettings | None = None,
        listen: bool = True,
        plain_objects: bool = False,
        supervised: bool = False,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.incarnation = incarnation
        self.settings = settings or NetworkSettings()
        self.id = f"{name}-{os.getpid()}-{secrets.token_hex(6)}"
        self.supervised = supervised
        self.directory = Directory()
        self.directory.on_change(self._ways_changed)
        self.watches = Watches(self)
        self.directory.on_gone = self.watches.left_directory
        self.epoch = 0
        self.ask_deadline_s = self.settings.request_timeout_s
        self.codec = Codec(
            ref_class=Ref,
            ref_to_wire=lambda ref: [ref.name],
            ref_from_wire=self._ref_from_wire,
            plain_objects=plain_objects,
        )
        self.cells: dict[int, Cell] = {}
        self.readers: dict[int, Reader] = {}
        self.context = copy_context()  # of all handlers here: nothing of who sends them a message
        self.dropped_tells = 0
        self.first_items = FirstItems()
        self.on_actor_failed: Callable[[str, int, BaseException], None] | None = None
        self.on_announce: Callable[[str, str], None] | None = None
        self._sweeper = Sweeper()
        self.pending = self._sweeper.pending
        self.next_id: Callable[[], int] = itertools.count(1).__next__
        self._numbers = itertools.count(1)
        self._local = CheckedOrigin(self) if self.settings.encode_in_process else LocalOrigin(self)
        self._by_name: dict[str, Cell] = {}
        self._stopping: dict[Cell, Stop] = {}
        self.targets = Targets(self)
        self._peers: dict[str, Peer] = {}
        self._sessions: dict[Link, Peer | Origin] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        identity = Identity(
            node=self.id,
            name=name,
            namespace=namespace,
            incarnation=incarnation,
            pid=os.getpid(),
            max_message_bytes=self.settings.max_message_bytes,
        )
        self._network = NetworkManager(self.settings, identity, self, listen=listen)
        self.durables = Durables(self, self._network.durable_store)
        self.sources, self.events = Sources(), NodeEvents(self)

    def __repr__(self) -> str:
        return f"<Node {self.id} at {self.address or 'no address'}, {len(self.cells)} actors, {len(self._peers)} peers>"

    @property
    def address(self) -> str:
        """Where others reach this node; empty if it does not listen."""
        return self._network.address

    async def start(self) -> None:
        """Bind. Raises `TransportError` and `ConfigError`."""
        self._sweeper.start()
        await self._network.start()

    async def close(self, *, grace_s: float = 5.0) -> None:
        """Stop the actors, the last started first, then the network; idempotent. They share the grace."""
        if self._closed:
            return
        self._closed = True
        until_s = monotonic() + grace_s
        for name in reversed(list(self._by_name)):
            try:
                await self.stop_actor(name, StopReason.SHUTDOWN, grace_s=max(0.0, until_s - monotonic()))
            except Exception:  # the others must still be stopped
                log.exception("%s could not be stopped", name)
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        await self.events.close()
        self.watches.close("this node was closed")
        for peer in list(self._peers.values()):
            self._peer_down(peer, "this node was closed")
        await self._network.close()
        self._sweeper.close()
        for call in self.pending.take_all():
            if not call.future.done():
                where = call.route.location
                closed = ActorStopped("this node was closed", executed=Executed.MAYBE)
                call.future.set_exception(closed.of(where.name, where.incarnation, Executed.MAYBE))

    # -- actors

    async def spawn(
        self,
        cls: type[A],
        *args: Any,
        name: str,
        incarnation: int = 1,
        mailbox: MailboxPolicy | None = None,
        **kwargs: Any,
    ) -> Ref[A]:
        """Start an actor here; returns its reference when it is ready. Raises `StartFailed` with the traceback."""
        if self._closed:
            raise StartFailed("this node was closed", actor=name)
        if name in self._by_name:
            raise StartFailed("an actor of this name runs in this process already", actor=name)
        if why := objection(cls):
            raise StartFailed(why, actor=name)
        policy = mailbox or MailboxPolicy()
        location = Location(
            name,
            self.id,
            self.address,
            next(self._numbers),
            incarnation,
            min(DEFAULT_WINDOW, policy.messages),
            min(DEFAULT_WINDOW_BYTES, policy.bytes),
        )
        cell = Cell(self, cls, location, policy, cls.concurrency)
        self.cells[location.number] = cell
        self._by_name[name] = cell
        current = CURRENT.set(None)
        try:
            cell.actor = build(self, cls, args, kwargs, cell)
            await cell.actor.on_start()
            must_be_starting(cell)
            await self.durables.receive(cell)
            if self._network.exposes:
                await self._network.expose(endpoint_of(self, cell))
                must_be_starting(cell)
        except BaseException as error:
            await self._discard(cell)
            if not isinstance(error, Exception):
                raise
            text = "".join(traceback.format_exception(error))
            why = f"it did not start: {type(error).__name__}: {error}"
            raise StartFailed(why, actor=name, incarnation=incarnation, remote_traceback=text) from error
        finally:
            CURRENT.reset(current)
        cell.open()
        self.directory.add(location)
        return self.ref(name, cls)

    async def stop_actor(self, name: str, reason: StopReason, *, grace_s: float = 5.0) -> None:
        """Stop a local actor, if there is one: refuse what waits, let run what runs for ``grace_s``, then cancel it."""
        cell = self._by_name.get(name)
        if cell is not None:
            until_s = monotonic() + grace_s
            stop = self._stopping.setdefault(cell, Stop(reason))
            await stop.drain(cell, grace_s)
            why = f"it was stopped ({stop.reason.value})"
            self.directory.remove(name, cell.location.incarnation, why, DownKind.STOPPED)
            self._unlist(cell)
            cell.send_back(cell.mailbox.take_from_peers())  # at once: the rest of a stop may take a while
            await self._shut(cell, grace_s)
            await cell.stop(stop.reason, max(0.0, until_s - monotonic()))
            await self._discard(cell)

    async def _shut(self, cell: Cell, grace_s: float = 0.0) -> None:
        """The store and strangers go to others now; what strangers have asked is done."""
        await self.durables.stop(cell)
        await self._network.withdraw(cell.location.name, grace_s)

    async def _discard(self, cell: Cell) -> None:
        await self._shut(cell)
        if cell.state is not State.STOPPED:
            await cell.stop(StopReason.FAILED, 0)
        await self.events.close_actor(cell.location.name)
        self._unlist(cell)
        self._stopping.pop(cell, None)
        cell.actor = None  # ways that nobody has looked at since still know the cell
        if self._by_name.get(cell.location.name) is cell:
            del self._by_name[cell.location.name]
        self.watches.ended(cell.location)

    def _unlist(self, cell: Cell) -> None:
        """What peers send to it from now on is refused."""
        self.cells.pop(cell.location.number, None)
        for session in self._sessions.values():
            if isinstance(session, Origin):
                session.inlets.pop(cell.location.number, None)  # it holds the actor

    def actor_failed(self, cell: Cell, error: BaseException) -> None:
        """A tell raised: nothing more is handled, and whoever supervises decides."""
        if not cell.takes_mail:
            return
        cell.state = State.FAILED
        name, incarnation = cell.location.name, cell.location.incarnation
        log.error("%s failed: %s: %s", name, type(error).__name__, error, exc_info=error)
        why = f"it failed: {type(error).__name__}: {error}"
        self.directory.remove(name, incarnation, why, DownKind.FAILED)
        self._later(self._stop_failed(cell, error))

    async def _stop_failed(self, cell: Cell, error: BaseException) -> None:
        try:
            await self._shut(cell)
            await cell.stop(StopReason.FAILED, 0)
        finally:  # whoever supervises must hear of it, however the stop went
            try:
                await self._discard(cell)
            finally:
                if self.on_actor_failed is not None:
                    self.on_actor_failed(cell.location.name, cell.location.incarnation, error)

    def location(self, name: str) -> Location | None:
        """Where a local actor can be reached, or None."""
        cell = self._by_name.get(name)
        return cell.location if cell is not None else None

    # -- names

    def ref(self, name: str, cls: type[A] = Actor) -> Ref[A]:  # type: ignore[assignment]
        """Return a reference to an instance (``worker.0``) or a component (``worker``), known or not."""
        return Ref(self, name, cls)

    @contextmanager
    def resolving(self) -> Iterator[None]:
        """Within this block, unpickled references belong to this node."""
        with resolving(lambda name, cls: Ref(self, name, cls)):
            yield

    def target(self, name: str) -> Target:
        """What a name stands for; one object per name."""
        target = self.targets.get(name)
        if target is None:
            target = self.targets.add(name)
            target.durable = name in self.durables
        return target

    def _ref_from_wire(self, fields: list[Any]) -> Ref[Any]:
        return Ref(self, str(fields[0]))

    def add_location(self, location: Location) -> None:
        """The supervisor says: this instance can be reached."""
        self.directory.add(location)

    def remove_location(
        self, name: str, incarnation: int, reason: str, kind: DownKind = DownKind.UNKNOWN
    ) -> None:
        """The supervisor says: this instance is down. What waits here for it fails now."""
        location = self.directory.get(name)
        self.directory.remove(name, incarnation, reason, kind)
        if location is not None and location.incarnation <= incarnation:
            peer = self._peers.get(location.node)
            if peer is not None:
                peer.actor_down(location, reason)

    def node_down(self, node: str, reason: str, kind: DownKind = DownKind.UNKNOWN) -> None:
        """The supervisor says: this whole node is gone. Everything outstanding on it fails now."""
        self.directory.node_down(node, reason, kind)
        self.sources.node_down(node, reason)
        peer = self._peers.get(node)
        if peer is not None:
            self._peer_down(peer, reason)
        for link, session in list(self._sessions.items()):
            if isinstance(session, Origin) and link.peer.node == node:
                session.down()
                link.close()

    def _ways_changed(self) -> None:
        self.epoch += 1

    # -- ways

    def route(self, location: Location) -> Route:
        """The way to one actor incarnation; dials its node when it is used first."""
        if location.node == self.id:
            cell = self._by_name.get(location.name)
            if cell is None or cell.location.number != location.number:
                raise ActorUnavailable(
                    "it has just been stopped", actor=location.name, incarnation=location.incarnation
                )
            return self._local.route(cell)
        return self._peer(location).outlet(location)

    def reach(self, location: Location) -> bool:
        """Dial the node of a location; False if there is a link or a dial under way."""
        is_new = location.node not in self._peers and not self._closed
        if is_new:
            self._peer(location)
        return is_new

    def _peer(self, location: Location) -> Peer:
        peer = self._peers.get(location.node)
        if peer is None:
            peer = Peer(
                self,
                location.address,
                location.node,
                self.settings.max_message_bytes,
                LIMIT_SETTING,
                lanes=self._network.gives_endpoints(location.address),
            )
            self._peers[location.node] = peer
            self._later(self._dial(peer))
        return peer

    async def _dial(self, peer: Peer) -> None:
        try:
            link = await self._network.connect(peer.address, node=peer.node)
        except CallboardError as error:
            self._peer_down(peer, str(error))
            return
        except Exception as error:  # a plane's mistake, or no descriptors left: nobody may wait for ever
            log.exception("dialling %s failed", peer.address)
            self._peer_down(peer, f"{type(error).__name__}: {error}")
            return
        if self._peers.get(peer.node) is not peer:  # it went down while we dialled
            link.close()
            return
        self._sessions[link] = peer
        peer.connected(link)

    def _peer_down(self, peer: Peer, why: str) -> None:
        if self._peers.get(peer.node) is peer:
            del self._peers[peer.node]
        link = peer.link
        if link is not None:
            self._sessions.pop(link, None)
        self.epoch += 1
        peer.down(why)
        if link is not None:
            link.close()
        self.watches.way_down(peer.node, why, was_up=link is not None)

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- called by the planes

    def link_up(self, link: Link) -> None:
        """A peer dialled us."""
        outbox = Outbox(asyncio.get_running_loop(), self.settings.max_message_bytes, LIMIT_SETTING, _ignore)
        outbox.attach(link)
        self._sessions[link] = Origin(self, link, outbox)

    def link_received(self, link: Link, frames: Sequence[bytes | memoryview]) -> None:
        """One message arrived."""
        if (session := self._sessions.get(link)) is not None:
            session.received(frames)

    def link_writable(self, link: Link) -> None:
        """A link that was full has room again."""
        if (session := self._sessions.get(link)) is not None:
            session.writable()

    def link_down(self, link: Link, error: TransportError) -> None:
        """A link is gone."""
        session = self._sessions.pop(link, None)
        if isinstance(session, Peer):
            self._peer_down(session, str(error))
        elif session is not None:
            session.down()

    def link_idle(self, link: Link) -> bool:
        """True if the pool may close this link."""
        session = self._sessions.get(link)
        return session is None or (session.idle and link.peer.node not in self.watches)

    def statistics(self) -> dict[str, Any]:
        """Everything that is counted here, as plain data."""
        network = {name: asdict(counts) for name, counts in self._network.statistics().items()}
        return counted(self, self._by_name, network)


def _ignore(frames: Sequence[Any], error: TransportError) -> None:
    """An accepted link has its limit from the start: this cannot happen."""
    log.error("an answer could not be sent: %s", error)
