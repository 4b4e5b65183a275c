"""Looks at everything that `callboard doctor` judges; nothing is started and nothing is changed."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import secrets
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from callboard.transports.address import Address
from callboard.transports.base import Identity, Link
from callboard.transports.errors import (
    CallboardError,
    ConnectTimeout,
    HandshakeRefused,
    NoRoute,
    TransportError,
)
from callboard.transports.manager import NetworkManager
from callboard.transports.settings import NetworkSettings

from .admin import AdminClient
from .config import load
from .doctor_facts import (
    Facts,
    NatsFacts,
    NatsStage,
    PeerFacts,
    PortFacts,
    Reach,
    SystemFacts,
    brings_nats,
    uses_nats,
)
from .doctor_nats import look_at_nats
from .errors import NatsServerMissing
from .nats_server import find_binary
from .placement import place
from .ports import port_of
from .rundir import directory_for, is_held, running_directories
from .spec import Config
from .status import ProcessStatus, own_versions

SYSTEM_S = 5.0
NATS_S = 5.0
PEER_S = 3.0


async def gather(
    file: str | os.PathLike[str],
    *,
    plane: str | None = None,
    event_plane: str | None = None,
    namespace: str | None = None,
    runtime_dir: Path | None = None,
    nats_embedded: bool = False,
    nats_server: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    now: Callable[[], float] = time.time,
) -> Facts:
    """Return the facts about a config file and what runs of it. Raises `ConfigError` if it has mistakes.

    The options are those of `callboard up`; ``now`` is our clock.
    """
    environ = os.environ if environ is None else environ
    plane = plane or ("nats" if nats_embedded else None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        config = load(file, plane=plane, event_plane=event_plane, namespace=namespace, environ=environ)
    mine, others = await _systems(config, environ, runtime_dir)
    processes = len(place(config.actors, config.processes, namespace=config.namespace))
    nats, nats_running = await _look(config, mine, nats_embedded, now)
    server, server_error = _nats_program(nats_server) if nats_embedded else ("", "")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    versions = own_versions()
    return Facts(
        file=str(file),
        version=versions["version"],
        protocol=versions["protocol"],
        config=config,
        processes=processes,
        warnings=tuple(str(warning.message) for warning in said),
        nats_embedded=nats_embedded,
        nats_server=server,
        nats_server_error=server_error,
        mine=mine,
        others=others,
        nats=nats,
        nats_running=nats_running,
        peers=await _peers(mine, nats_running),
        ports=tuple(_ports(config, mine, processes)),
        soft_descriptors=soft,
        hard_descriptors=hard,
    )


async def _look(
    config: Config, mine: SystemFacts | None, nats_embedded: bool, now: Callable[[], float]
) -> tuple[NatsFacts | None, NatsFacts | None]:
    """NATS by file and environment, and by the settings of what runs: these may lead elsewhere, as somebody else."""
    theirs = mine.settings if mine is not None else None
    if theirs is not None and theirs.request_plane != "nats":
        theirs = None
    ours = config.network if uses_nats(config) and not nats_embedded and not brings_nats(mine) else None

    async def look(network: NetworkSettings | None, namespace: str) -> NatsFacts | None:
        if network is None:
            return None
        limit_s = min(NATS_S, network.nats.startup_connect_timeout_s)
        return await look_at_nats(network, limit_s, now, namespace=namespace)

    if ours is not None and theirs is not None and ours.nats == theirs.nats:
        found = await look(ours, config.namespace)
        return found, found
    running = mine.status.namespace if mine is not None and mine.status is not None else config.namespace
    return await look(ours, config.namespace), await look(theirs, running)


def _nats_program(explicit: str | os.PathLike[str] | None) -> tuple[str, str]:
    try:
        return str(find_binary(explicit)), ""
    except NatsServerMissing as error:
        return "", str(error)


# -- what runs


async def _systems(
    config: Config, environ: Mapping[str, str], runtime_dir: Path | None
) -> tuple[SystemFacts | None, tuple[SystemFacts, ...]]:
    """The system of the config, and the others of this user."""
    own = directory_for(config.namespace, environ, runtime_dir)
    directories = {own, *running_directories(environ)}
    found = await asyncio.gather(*(_system(directory) for directory in sorted(directories)))
    mine = next((system for system in found if system is not None and system.directory == str(own)), None)
    return mine, tuple(system for system in found if system is not None and system is not mine)


async def _system(directory: Path) -> SystemFacts | None:
    """A running system, or None if there is none in the directory."""
    if not is_held(directory):
        return None
    client = AdminClient()
    try:
        await client.connect(directory)
        status = await client.status(SYSTEM_S)
        welcome = await client.follow(SYSTEM_S)
    except (CallboardError, TimeoutError, OSError) as error:
        return SystemFacts(directory=str(directory), error=str(error))
    finally:
        await client.close()
    return SystemFacts(directory=str(directory), status=status, settings=welcome.settings)


class _Nobody:
    """A handler for links on which nothing is said."""

    def link_up(self, link: Link) -> None:
        """See `LinkHandler`."""

    def link_received(self, link: Link, frames: Sequence[bytes | memoryview]) -> None:
        """See `LinkHandler`."""

    def link_writable(self, link: Link) -> None:
        """See `LinkHandler`."""

    def link_down(self, link: Link, error: TransportError) -> None:
        """See `LinkHandler`."""

    def link_idle(self, link: Link) -> bool:
        """See `LinkHandler`."""
        return True


async def _peers(mine: SystemFacts | None, nats: NatsFacts | None) -> tuple[PeerFacts, ...]:
    """Dial every process of a system, by its own plane and no short cut; none if there is no way by NATS."""
    if mine is None or mine.status is None or mine.settings is None:
        return ()
    processes = [process for process in mine.status.processes if process.address]
    if nats is not None and nats.stage is not NatsStage.DONE:
        return tuple(
            PeerFacts(process=process.name, address=process.address, reach=Reach.FAILED, text=nats.error)
            for process in processes
        )
    namespace, settings = mine.status.namespace, mine.settings
    return tuple(await asyncio.gather(*(dial(process, namespace, settings) for process in processes)))


async def dial(process: ProcessStatus, namespace: str, settings: NetworkSettings) -> PeerFacts:
    """Return what came of a handshake with a process; the link is closed again."""
    limit_s = min(PEER_S, settings.connect_timeout_s)
    settings = replace(settings, ipc=False, connect_timeout_s=limit_s)
    identity = Identity(
        node=f"doctor-{os.getpid()}-{secrets.token_hex(6)}",
        name="doctor",
        namespace=namespace,
        pid=os.getpid(),
    )
    reach, text = await _connects(process.address, limit_s)
    if reach is Reach.ANSWERS:
        network = NetworkManager(settings, identity, _Nobody(), listen=False)
        try:
            (await network.connect(process.address)).close()
        except (TransportError, OSError) as error:
            reach, text = _judge(error), getattr(error, "why", "") or str(error)
        finally:
            await network.close()
    return PeerFacts(
        process=process.name, address=process.address, reach=reach, text=text, health=process.health
    )


def _judge(error: Exception) -> Reach:
    kinds: list[tuple[type[Exception], Reach]] = [
        (HandshakeRefused, Reach.REJECTED),
        (ConnectTimeout, Reach.SILENT),
        (NoRoute, Reach.REFUSED),
    ]
    return next((reach for kind, reach in kinds if isinstance(error, kind)), Reach.FAILED)


async def _connects(address: str, limit_s: float) -> tuple[Reach, str]:
    """Whether anything listens at the host and port of an address; planes without them are not asked."""
    parsed = Address.parse(address)
    if parsed.scheme != "tcp":
        return Reach.ANSWERS, ""
    host, port = parsed.host_port()
    try:
        async with asyncio.timeout(limit_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Reach.BLOCKED, ""
    except ConnectionRefusedError:
        return Reach.REFUSED, ""
    except OSError as error:
        return Reach.FAILED, error.strerror or str(error)
    writer.close()
    return Reach.ANSWERS, ""


# -- ports


def _ports(config: Config, mine: SystemFacts | None, processes: int) -> list[PortFacts]:
    """Who has the ports that the config fixes."""
    wanted: list[tuple[str, str, int]] = []
    if config.network.request_plane == "tcp" and config.network.port:
        for position in range(processes):
            user = "DYN_TCP_RPC_PORT (network.port)" + (f" + {position}" if position else "")
            wanted.append((user, config.network.host, port_of(config.network, position)))
    for actor in config.actors:
        port, host = actor.kwargs.get("port"), actor.kwargs.get("host", "127.0.0.1")
        if type(port) is int and port and isinstance(host, str):
            wanted.append((f"actor.{actor.name}", host, port))
    ours = _pids(mine)
    found = []
    for user, host, port in wanted:
        holder = ""
        pid = 0
        if _is_taken(host, port):
            pid, holder = _holder(port)
        found.append(PortFacts(user=user, host=host, port=port, holder=holder, is_ours=pid in ours))
    return found


def _pids(mine: SystemFacts | None) -> set[int]:
    if mine is None or mine.status is None:
        return set()
    return {mine.status.pid, *(process.pid for process in mine.status.processes)} - {0}


def _is_taken(host: str, port: int) -> bool:
    """True if nobody else can listen there; nothing listens for the time of the look."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _holder(port: int) -> tuple[int, str]:
    """Process id and description of who listens on a port, as far as we may know it."""
    import psutil

    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            at: Any = connection.laddr
            if connection.status == psutil.CONN_LISTEN and at and at.port == port and connection.pid:
                return connection.pid, f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return 0, "another process"
