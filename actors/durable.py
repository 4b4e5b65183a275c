"""Durable tells: what a node has stored for others, and what it receives for its actors from the store.

A component is durable if its policy was declared here. A tell to it is encoded as it would be for another process, with
its buffers beside it in one array, and stored; see intake.py for the way out of the store.

    [version, method, arguments, [buffer, ...]]
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Protocol

import msgspec

from callboard.transports.durable import DurablePolicy, DurableStore
from callboard.transports.errors import ConfigError, NotStored

from .cell import Cell
from .codec import Codec
from .directory import split_name
from .envelope import MALFORMED
from .errors import BadArguments, DeadlineExceeded, DecodeError, EncodeError, MailboxFull
from .intake import ActorIntake
from .outlet import argument_path
from .policy import Executed
from .target import Targets

VERSION = 1
KEPT_S = 60.0
"""For so long a tell without a deadline is sent again while the store is away."""
MOST_MESSAGES = 4096
MOST_BYTES = 64 * 1024 * 1024
"""What one process may have accepted and not yet stored."""

_MESSAGE_ID = re.compile(r"[!-~]{1,200}")

log = logging.getLogger("callboard.actors")


class StoredTell(msgspec.Struct, array_like=True, gc=False):
    """A tell as it lies in the store; fields may be added at the end."""

    version: int
    method: str
    body: msgspec.Raw
    buffers: list[bytes] = []


_decode = msgspec.msgpack.Decoder(StoredTell).decode


def decode(payload: bytes) -> StoredTell:
    """Return a stored tell; its arguments stay encoded. Raises `DecodeError`."""
    try:
        tell = _decode(payload)
    except MALFORMED as error:
        raise DecodeError(f"what is stored is no tell: {error}") from None
    if tell.version != VERSION:
        raise DecodeError(
            f"the tell is stored in version {tell.version}; this process reads version {VERSION}"
        )
    return tell


class Host(Protocol):
    """What this module needs from its node."""

    codec: Codec
    dropped_tells: int
    targets: Targets


class Durables:
    """The durable components of a system, as one node sees them."""

    def __init__(self, host: Host, store: Callable[[], DurableStore]) -> None:
        self._host = host
        self._store = store
        self.policies: dict[str, DurablePolicy] = {}
        self.lost = 0
        """Tells that were accepted here and could not be stored."""
        self._intakes: dict[Cell, ActorIntake] = {}
        self._count = self._bytes = 0
        self._rooms: deque[tuple[int, asyncio.Future[None]]] = deque()
        """Who waits, each with the size of its message."""

    def __repr__(self) -> str:
        return f"<Durables {', '.join(self.policies) or 'none'}, {self._count} not stored yet>"

    def __contains__(self, name: str) -> bool:
        return split_name(name)[0] in self.policies

    @property
    def store(self) -> DurableStore:
        """Where messages are stored. Raises `ConfigError` on a plane that stores none."""
        return self._store()

    def declare(self, policies: Mapping[str, DurablePolicy]) -> None:
        """These components are durable. Raises `ConfigError` on a plane that stores nothing."""
        for component, policy in policies.items():
            try:
                self.store.declare(component, policy)
            except ConfigError as error:
                raise ConfigError(f"actor.{component}: {error}") from None
            self.policies[component] = policy
        for target in self._host.targets:
            target.durable = target.name in self

    # -- out

    def tell(
        self,
        name: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        message_id: str | None,
        deadline_s: float | None,
    ) -> None:
        """Accept a tell: it is stored in the background, tried until ``deadline_s`` seconds from now.

        Raises `MailboxFull` when as many wait here as may, `NotStored` when this node is closed, and what is wrong with
        the message.
        """
        payload = self._encode(name, method, args, kwargs)
        if self._rooms or not self._has_room(len(payload)):
            raise MailboxFull(
                f"{self._count} messages ({self._bytes:,} bytes) wait here to be stored, of {MOST_MESSAGES}"
                f" ({MOST_BYTES:,} bytes) that may; use tell_wait",
                actor=name,
            )
        deadline = monotonic() + (KEPT_S if deadline_s is None else deadline_s)
        future = self._put(name, payload, message_id, deadline)
        future.add_done_callback(lambda future: self._told(future, name, method))

    def _told(self, future: asyncio.Future[int], name: str, method: str) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self.lost += 1
            self._host.dropped_tells += 1
            log.error("lost a durable tell of %s to %s: %s", method, name, error)

    async def tell_wait(
        self,
        name: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        message_id: str | None,
        deadline: float,
    ) -> None:
        """Return when the message is stored. Raises `DeadlineExceeded` and `NotStored`."""
        payload = self._encode(name, method, args, kwargs)
        try:
            async with asyncio.timeout(
                None if deadline == float("inf") else max(0.0, deadline - monotonic())
            ):
                await self._room(len(payload))
        except TimeoutError:
            why = f"{self._count} messages waited here to be stored before it"
            raise DeadlineExceeded(why, actor=name, executed=Executed.NEVER) from None
        try:
            await self._put(name, payload, message_id, deadline)
        except NotStored as error:
            if monotonic() < deadline:
                raise
            executed = Executed.MAYBE if error.maybe else Executed.NEVER
            raise DeadlineExceeded(
                f"it was not stored in time: {error.why}", actor=name, executed=executed
            ) from None

    def _encode(self, name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        if name not in self:
            raise BadArguments("a message_id is for tells to durable actors, and this is none", actor=name)
        codec = self._host.codec
        try:
            body, buffers = codec.encode(
                list(args) if not kwargs else {"a": list(args), "k": kwargs}, "arguments"
            )
        except EncodeError as error:
            raise EncodeError(f"{name}.{method}: {argument_path(error.path)}", error.why) from None
        return codec.pack((VERSION, method, msgspec.Raw(body), buffers or ()))

    def _put(self, name: str, payload: bytes, message_id: str | None, deadline: float) -> asyncio.Future[int]:
        component, index = split_name(name)
        future = self.store.store(component, index, payload, message_id or secrets.token_hex(16), deadline)
        size = len(payload)
        self._count += 1
        self._bytes += size
        future.add_done_callback(lambda _: self._settled(size))
        return future

    def _settled(self, size: int) -> None:
        self._count -= 1
        self._bytes -= size
        self._let_in()

    def _has_room(self, size: int) -> bool:
        return not self._count or (self._count < MOST_MESSAGES and self._bytes + size <= MOST_BYTES)

    def _let_in(self) -> None:
        while self._rooms and self._has_room(self._rooms[0][0]):
            size, room = self._rooms.popleft()
            if not room.done():
                self._count += 1  # kept for it until it is there or has gone
                self._bytes += size
                room.set_result(None)

    async def _room(self, size: int) -> None:
        """Return when there is room for a message that is put at once, in the order of those who wait."""
        if not self._rooms and self._has_room(size):
            return
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rooms.append((size, room))
        try:
            await room
        finally:
            if room.done() and not room.cancelled():
                self._count -= 1
                self._bytes -= size
            asyncio.get_running_loop().call_soon(self._let_in)  # after the message, if there is one

    # -- in

    async def receive(self, cell: Cell) -> None:
        """Let an actor receive what is stored for it, if it is durable. Raises `TransportError`."""
        component, index = split_name(cell.location.name)
        policy = self.policies.get(component)
        if policy is not None:
            intake = self._intakes[cell] = ActorIntake(cell, policy, decode)
            intake.begin(await self.store.receive(component, index, intake.take))

    async def stop(self, cell: Cell) -> None:
        """Receive no more for an actor; what it has and has not begun is given back when it stops."""
        intake = self._intakes.pop(cell, None)
        if intake is not None:
            await intake.close()

    def statistics(self) -> dict[str, Any]:
        """Counters as plain data; empty without durable components."""
        if not self.policies:
            return {}
        intakes = {cell.location.name: intake.statistics() for cell, intake in self._intakes.items()}
        return {"lost": self.lost, **self.store.statistics(), "intakes": intakes}


def check_message_id(message_id: str) -> str:
    """Return a message id if it can be one; raises `ValueError`."""
    if not _MESSAGE_ID.fullmatch(message_id):
        raise ValueError(
            f"message_id is {message_id!r}; it must be 1 to 200 printable ASCII characters without spaces"
        )
    return message_id
