"""What the ``cluster`` fixture gives to a test: systems of real processes, gone when the test ends."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from callboard.supervisor.guardian import VARIABLE, sweep_until_empty

from .leaks import Snapshot, look, look_before, settled

if TYPE_CHECKING:
    from callboard.supervisor.spec import Config
    from callboard.supervisor.system import System

    from .nats_session import NatsForTest

READY_S = 30.0
STOP_GRACE_S = 2.0
STOP_S = 30.0
LOG_TAIL_BYTES = 20_000
FIXED_ADDRESS = ("CALLBOARD_RUNTIME_DIR", "DYN_TCP_RPC_HOST", "DYN_TCP_RPC_PORT")
"""Environment variables that would make two tests meet at one place."""


class Cluster:
    """Starts systems for one test. Each has a namespace and a runtime directory of its own.

    The directories are below `directory`, which is ``XDG_RUNTIME_DIR`` while the test runs: a ``callboard``
    command that the test starts finds the test's systems and no others. Systems on NATS meet on the nats-server
    of the test run, below a prefix of the test's own.
    """

    def __init__(self, directory: Path, item: pytest.Item, outer_mark: str = "") -> None:
        self.directory = directory
        self.beside = item.path.parent
        """Where the test file is; config files and the modules that they name are looked for here first."""
        self.plane: str | None = None
        """Plane of the systems for which the test names none; None: what environment and config say."""
        self.outer_mark = outer_mark
        """``CALLBOARD_TREE`` as it was before the test."""
        self._item = item
        self.token = directory.name
        self._systems: list[System] = []
        self._started = 0

    async def up(
        self,
        source: str | Path,
        *,
        plane: str | None = None,
        fixed_ports: bool = False,
        shared_nats: bool = True,
        **options: Any,
    ) -> System:
        """Start what a config says and return when it is ready.

        ``source`` is the path of a config file, beside the test or from the working directory, or the text
        of one (TOML). Every argument called ``port`` becomes 0, chosen by the kernel, unless
        ``fixed_ports``; the addresses are in the system's announcements. What uses NATS uses that of the
        test run, or what config and environment say without ``shared_nats``. ``options`` go to ``System.from_config``.
        Raises what that and the start raise.
        """
        from callboard.supervisor.doctor_facts import uses_nats
        from callboard.supervisor.system import System

        plane = plane or ("nats" if options.get("nats_embedded") else self.plane)
        config = self._config(source, plane)
        if not fixed_ports:
            config = with_free_ports(config)
        if shared_nats and uses_nats(config) and not options.get("nats_embedded"):
            config = replace(config, network=(await self.nats()).network(config.network))
        return await self._start(System.from_config(config, plane=plane, **options))

    async def system(self, **options: Any) -> System:
        """Start an empty system, to spawn actors in; ``options`` go to ``System``.

        Without ``settings`` or ``nats_embedded`` one on NATS uses the nats-server of the test run.
        """
        from callboard.supervisor.system import System
        from callboard.transports.settings import NetworkSettings

        if "settings" not in options and not options.get("nats_embedded"):
            settings = NetworkSettings.from_env(os.environ)
            plane = options["plane"] = options.get("plane") or self.plane or settings.request_plane
            options["settings"] = (await self.nats()).network(settings) if plane == "nats" else settings
        return await self._start(System(**{"namespace": self._namespace(), **options}))

    async def nats(self) -> NatsForTest:
        """Return the nats-server of the test run, with the prefix of this test; what ``nats_server`` gives."""
        from .nats_session import NatsForTest, shared

        return NatsForTest(await shared(self._item.config, self.outer_mark), self.token)

    async def close(self) -> None:
        """Stop every system, the last one first; raises what a stop raises after all of them were tried."""
        errors: list[Exception] = []
        while self._systems:
            system = self._systems.pop()
            try:
                async with asyncio.timeout(STOP_S):
                    await system.stop(STOP_GRACE_S)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0] if len(errors) == 1 else ExceptionGroup("systems did not stop", errors)

    def logs(self) -> dict[str, str]:
        """Return the end of what every process wrote, by ``namespace/process``."""
        return {
            f"{path.parent.parent.name}/{path.stem}": _tail(path)
            for path in sorted(self.directory.glob("callboard/*/logs/*.log"))
        }

    async def _start(self, system: System) -> System:
        self._systems.append(system)
        async with asyncio.timeout(READY_S):
            await system.start()
        return system

    def _namespace(self) -> str:
        self._started += 1
        return f"{self.token}-{self._started}"

    def _config(self, source: str | Path, plane: str | None) -> Config:
        from callboard.supervisor.config import load, parse

        namespace = self._namespace()
        if isinstance(source, str) and "\n" in source:
            return parse(source, file=self.beside / "cluster.toml", plane=plane, namespace=namespace)
        path = self.beside / source
        return load(path if path.exists() else source, plane=plane, namespace=namespace)

    def __repr__(self) -> str:
        return f"<Cluster {self.token} {len(self._systems)} systems>"


def with_free_ports(config: Config) -> Config:
    """Return the config with port 0 wherever it fixes one."""
    actors = tuple(
        replace(actor, kwargs={**actor.kwargs, "port": 0}) if "port" in actor.kwargs else actor
        for actor in config.actors
    )
    return replace(config, actors=actors, network=replace(config.network, port=0))


def _tail(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace")
    return ""


@contextmanager
def attached(item: pytest.Function) -> Iterator[Cluster]:
    """Give a cluster to ``item``: close it in the loop of the test, then look for what is left."""
    if not inspect.iscoroutinefunction(item.obj):
        raise pytest.UsageError(f"{item.nodeid} uses the cluster fixture: it must be an `async def` test")
    cluster = Cluster(_short_directory(), item, os.environ.get(VARIABLE, ""))
    function = item.obj
    item.obj = _guarded(function, cluster, item)
    environment = _environment(cluster)
    try:
        yield cluster
    finally:
        item.obj = function
        _restore(environment)
        shutil.rmtree(cluster.directory, ignore_errors=True)


def _short_directory() -> Path:
    """Unix sockets will be in it, and the kernel takes 107 bytes for the whole path of one."""
    base = tempfile.gettempdir()
    path = Path(base if len(base) < 24 else "/tmp", f"cb{secrets.token_hex(4)}")
    path.mkdir(mode=0o700)
    return path


def _environment(cluster: Cluster) -> dict[str, str | None]:
    """Mark everything that the test starts; returns what was there before."""
    outer = os.environ.get(VARIABLE)
    names = (VARIABLE, "XDG_RUNTIME_DIR", *FIXED_ADDRESS)
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[VARIABLE] = f"{outer}/{cluster.token}" if outer else cluster.token
    os.environ["XDG_RUNTIME_DIR"] = str(cluster.directory)
    return before


def _restore(environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _guarded(
    function: Callable[..., Awaitable[object]], cluster: Cluster, item: pytest.Function
) -> Callable[..., Awaitable[None]]:
    @functools.wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> None:
        before = look_before(token=cluster.token, directory=cluster.directory)
        try:
            await function(*args, **kwargs)
        except BaseException:
            _attach(item, cluster)
            with suppress(Exception):
                await cluster.close()
            if left := await _leaks(cluster, before):
                item.add_report_section("call", "left behind", "\n".join(left))
            raise
        try:
            await cluster.close()
        finally:
            left = await _leaks(cluster, before)
        if left:
            _attach(item, cluster)
            pytest.fail("the test left behind\n  " + "\n  ".join(left), pytrace=False)

    return guarded


def _attach(item: pytest.Function, cluster: Cluster) -> None:
    for name, text in cluster.logs().items():
        item.add_report_section("call", f"log of {name}", text or "(empty)")


async def _leaks(cluster: Cluster, before: Snapshot) -> list[str]:
    """Return what is left, one line each, and clear away the processes among it."""
    left = await settled(before, lambda: look(token=cluster.token, directory=cluster.directory))
    if left:
        await asyncio.to_thread(sweep_until_empty, cluster.token)
    return [str(item) for item in left]
