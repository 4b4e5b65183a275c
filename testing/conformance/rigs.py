"""The rigs of our own planes, and one that others can use: `StreamRig`."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import replace

from callboard.supervisor.guardian import VARIABLE
from callboard.supervisor.nats_server import NatsServer
from callboard.transports import memory
from callboard.transports.address import Address
from callboard.transports.settings import NetworkSettings

from ..fault_proxy import FaultProxy, Way
from ..nats_session import shared
from .rig import Ability, Rig


class ProxiedRig(Rig):
    """Faults by proxies between nodes and what they dial."""

    offers = frozenset((Ability.CUT, Ability.SILENCE, Ability.BLACKHOLE, Ability.DELAY, Ability.BYTEWISE))
    _proxies: dict[str, FaultProxy]
    _faults: list[Callable[[FaultProxy], None]]

    async def start(self) -> None:
        """See `Rig.start`."""
        self._proxies, self._faults = {}, []

    async def stop(self) -> None:
        """See `Rig.stop`."""
        for proxy in self._proxies.values():
            proxy.stop()

    def proxy(self, target: str, *, listen: str = "") -> FaultProxy:
        """Return the proxy in front of a target, starting it if there is none."""
        if target not in self._proxies:
            self._proxies[target] = FaultProxy(target, listen=listen).start()
            for fault in self._faults:
                fault(self._proxies[target])
        return self._proxies[target]

    def cut(self) -> None:
        """See `Rig.cut`."""
        for proxy in self._proxies.values():
            proxy.cut()

    def blackhole(self, *ways: Way) -> None:
        """See `Rig.blackhole`."""
        self._set(lambda proxy: proxy.blackhole(*ways))

    def delay(self, seconds: float) -> None:
        """See `Rig.delay`."""
        self._set(lambda proxy: proxy.delay(seconds))

    def bytewise(self) -> None:
        """See `Rig.bytewise`."""
        self._set(FaultProxy.bytewise)

    def heal(self) -> None:
        """See `Rig.heal`."""
        self._faults.clear()
        for proxy in self._proxies.values():
            proxy.heal()

    def _set(self, fault: Callable[[FaultProxy], None]) -> None:
        self._faults.append(fault)
        for proxy in self._proxies.values():
            fault(proxy)


class StreamRig(ProxiedRig):
    """For planes on byte streams, with addresses ``scheme://host:port`` or ``scheme:///path/of/a/unix/socket``."""

    def through(self, address: str) -> str:
        """See `Rig.through`."""
        place = Address.parse(address).place
        if place.startswith("/"):
            proxy = self.proxy(place, listen=str(self.directory / f"proxy{len(self._proxies)}"))
        else:
            proxy = self.proxy(place)
        return f"{self.plane}://{proxy.endpoint}"


class TcpRig(StreamRig):
    """tcp without its unix-socket short cut, which would make it ipc."""

    scheme = "tcp"


class IpcRig(StreamRig):
    """Unix sockets below the directory of the test."""

    scheme = "ipc"


class MemoryRig(Rig):
    """The faults of the memory plane itself, at the servers that were dialled through it."""

    scheme = "memory"
    offers = frozenset((Ability.CUT, Ability.SILENCE, Ability.DELAY))
    _servers: dict[str, memory.MemoryServer]

    async def start(self) -> None:
        """See `Rig.start`."""
        self._servers = {}

    def through(self, address: str) -> str:
        """See `Rig.through`."""
        self._servers[address] = memory._servers[address]
        return address

    def cut(self) -> None:
        """See `Rig.cut`."""
        for server in self._servers.values():
            server.cut()

    def blackhole(self, *ways: Way) -> None:
        """See `Rig.blackhole`; here only for who dials, because nobody looks after a link in one process."""
        for server in self._servers.values():
            server.faults.blackhole = True

    def delay(self, seconds: float) -> None:
        """See `Rig.delay`."""
        for server in self._servers.values():
            server.faults.delay_s = seconds

    def heal(self) -> None:
        """See `Rig.heal`."""
        for server in self._servers.values():
            server.faults.delay_s = 0.0
            server.resume()


class NatsRig(ProxiedRig):
    """A real nats-server: one for all tests of a process, or the test's own if it is going to harm it."""

    scheme = "nats"
    offers = ProxiedRig.offers | {Ability.BROKER}
    _server: NatsServer
    _prefix: str

    async def start(self) -> None:
        """See `Rig.start`."""
        await super().start()
        self._prefix = f"t{secrets.token_hex(6)}"
        mark = os.environ.get(VARIABLE, "")
        if Ability.BROKER in self.wanted:
            self._server = NatsServer(self.directory / "nats", mark=mark)
            await self._server.start()
        else:
            self._server = await shared(self.config, mark)

    async def stop(self) -> None:
        """See `Rig.stop`."""
        await super().stop()
        if Ability.BROKER in self.wanted:
            await self._server.stop()
            shutil.rmtree(self._server.directory)

    def settings(self) -> NetworkSettings:
        """See `Rig.settings`."""
        settings = super().settings()
        fields = {**self._server.settings(), "prefix": self._prefix}
        return replace(settings, nats=replace(settings.nats, **fields))

    def beyond(self) -> NetworkSettings:
        """See `Rig.beyond`: the proxy stands before the server."""
        settings = self.settings()
        proxy = self.proxy(f"127.0.0.1:{self._server.port}")
        return replace(settings, nats=replace(settings.nats, servers=(f"nats://{proxy.endpoint}",)))

    async def freeze_broker(self) -> None:
        """See `Rig.freeze_broker`."""
        self._server.pause()

    async def kill_broker(self) -> None:
        """See `Rig.kill_broker`."""
        await self._server.kill()

    async def return_broker(self) -> None:
        """See `Rig.return_broker`."""
        self._server.resume()
        await self._server.start()


RIGS: dict[str, type[Rig]] = {rig.scheme: rig for rig in (MemoryRig, IpcRig, TcpRig, NatsRig)}
"""Of our own planes."""
