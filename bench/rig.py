"""Where the measured actors run: processes of a system; for the memory plane a second node beside the client."""

from __future__ import annotations

import asyncio
import math
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from callboard.actors.actor import Actor
from callboard.actors.node import Node
from callboard.actors.ref import Ref
from callboard.supervisor.nats_server import NatsServer
from callboard.supervisor.system import System
from callboard.transports.settings import NetworkSettings

from .measuring import Skipped

A = TypeVar("A", bound=Actor)

MAX_MESSAGE_BYTES = 128 * 1024 * 1024


def settings_for(plane: str) -> NetworkSettings:
    """Settings under which processes of one host really talk over ``plane``: tcp without its short cut.

    For nats a server of the rig's own is started. The message limit is raised for ``echo_64mb``. Raises `ConfigError`.
    """
    return NetworkSettings(request_plane=plane, ipc=plane != "tcp", max_message_bytes=MAX_MESSAGE_BYTES)


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """The event loop to measure on; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


class Rig:
    """An async context manager that spawns actors away from the client."""

    def __init__(self, plane: str) -> None:
        self.plane = plane
        self.settings = settings_for(plane)
        self._stack = AsyncExitStack()
        self._system: System | None = None
        self._broker: NatsServer | None = None
        self._near: Node | None = None
        self._far: Node | None = None
        self._names = 0

    def __repr__(self) -> str:
        return f"<Rig {self.plane}, {self._names} actors>"

    @property
    def system(self) -> System:
        """The system of processes; raises `Skipped` on the memory plane."""
        if self._system is None:
            raise Skipped(f"the {self.plane} plane has no processes")
        return self._system

    @property
    def broker(self) -> NatsServer:
        """The nats-server of the rig; raises `Skipped` on a plane without one."""
        if self._broker is None:
            raise Skipped(f"the {self.plane} plane has no server in between")
        return self._broker

    async def __aenter__(self) -> Self:
        if self.plane != "memory":
            if self.plane == "nats":
                await self._start_broker()
            self._system = await self._stack.enter_async_context(System(settings=self.settings))
            return self
        self._near = Node(name="client", settings=self.settings)
        self._far = Node(name="server", settings=self.settings)
        for node in (self._near, self._far):
            await node.start()
            self._stack.push_async_callback(node.close, grace_s=0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start_broker(self) -> None:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="callboard-bench-"))
        self._broker = NatsServer(Path(directory, "nats"))
        await self._broker.start()
        self._stack.push_async_callback(self._broker.stop)
        leading_there = replace(self.settings.nats, **self._broker.settings())
        self.settings = replace(self.settings, nats=leading_there)

    async def spawn(self, cls: type[A], *args: Any, **options: Any) -> Ref[A]:
        """Start an actor in a process of its own; its reference has no deadline."""
        self._names += 1
        name = f"{cls.__name__.lower()}-{self._names}"
        if self._system is not None:
            ref = await self._system.spawn(cls, *args, name=name, **options)
            return ref.options(deadline_s=math.inf)
        assert self._near is not None
        assert self._far is not None
        await self._far.spawn(cls, *args, name=name)
        location = self._far.location(name)
        assert location is not None
        self._near.add_location(location)
        return self._near.ref(name, cls).options(deadline_s=math.inf)
