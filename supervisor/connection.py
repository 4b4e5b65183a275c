"""A client of a system that runs in another process: references to its actors, its status, and its end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from callboard.actors.actor import Actor
from callboard.actors.node import Node
from callboard.actors.ref import Ref
from callboard.actors.replay import Replay

from .admin import AdminClient
from .replaying import replay
from .roster import Push, apply
from .rundir import find_running, is_held
from .status import SystemStatus

A = TypeVar("A", bound=Actor)


class Connection:
    """Follows the directory of a running system; an async context manager. Made by ``System.connect``."""

    def __init__(self, directory: Path, *, plain_objects: bool = False) -> None:
        self.directory = directory
        self._plain_objects = plain_objects
        self._early: list[Push] = []
        self._node: Node | None = None
        self._client = AdminClient(pushed=self._pushed)

    @classmethod
    async def open(
        cls,
        *,
        namespace: str | None = None,
        runtime_dir: str | os.PathLike[str] | None = None,
        plain_objects: bool = False,
    ) -> Self:
        """Connect; without arguments exactly one system must run. Raises `NotRunning`, `ConfigError`.

        With ``plain_objects`` answers hold the fields of objects instead of objects.
        """
        explicit = Path(runtime_dir) if runtime_dir is not None else None
        connection = cls(find_running(os.environ, namespace, explicit), plain_objects=plain_objects)
        await connection._client.connect(connection.directory)
        return connection

    async def follow(self) -> None:
        """Take part in the system, so that `ref` works; called by ``async with``."""
        if self._node is not None:
            return
        welcome = await self._client.follow()
        node = Node(
            name=f"client-{os.getpid()}",
            namespace=welcome.namespace,
            settings=welcome.settings,
            listen=False,
            plain_objects=self._plain_objects,
            supervised=True,
        )
        await node.start()
        self._node = node
        self._client.join(node.id)
        for push in self._early:
            apply(push, node)
        self._early.clear()

    def _pushed(self, push: Push) -> None:
        if self._node is None:
            self._early.append(push)
        else:
            apply(push, self._node)

    async def __aenter__(self) -> Self:
        try:
            await self.follow()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def ref(self, name: str, cls: type[A] = Actor) -> Ref[A]:  # type: ignore[assignment]
        """Return a reference to a component or an instance; needs `follow`."""
        return self._following().ref(name, cls)

    async def replay(self, component: str, **options: Any) -> Replay:
        """Do what `System.replay` does; needs `follow`."""
        return await replay(self._following(), component, **options)

    def _following(self) -> Node:
        if self._node is None:
            raise RuntimeError("follow the system first: async with await System.connect() as system")
        return self._node

    async def status(self) -> SystemStatus:
        """What the system looks like now, with the counters of its actors."""
        return await self._client.status()

    async def stop(self, grace_s: float | None = None, *, limit_s: float = 10.0) -> None:
        """Stop the system, by default with the grace of its config, and wait until it is gone.

        Raises `TimeoutError` if it is not ``limit_s`` seconds after the grace.
        """
        grace_s = await self._client.stop(grace_s)
        try:
            async with asyncio.timeout(grace_s + limit_s):
                # The lock of another process cannot be waited for with a limit, only tried.
                while is_held(self.directory):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise TimeoutError(f"the system in {self.directory} has not stopped") from None

    async def close(self) -> None:
        """Leave the system; idempotent."""
        self._client.leave()
        await self._client.close()
        if self._node is not None:
            await self._node.close(grace_s=0)
            self._node = None

    def __repr__(self) -> str:
        return f"<Connection to {self.directory} {'follows' if self._node else 'asks only'}>"
