"""The network of one process: one server, and one client per scheme that is dialled."""

from __future__ import annotations

from .address import Address
from .base import (
    Endpoint,
    EndpointServer,
    Identity,
    Link,
    LinkHandler,
    PlaneStatistics,
    RequestPlaneClient,
    RequestPlaneServer,
)
from .durable import DurablePlane, DurableStore
from .errors import Closed, ConfigError, TransportError
from .registry import get_plane
from .settings import NetworkSettings


class NetworkManager:
    """Builds server and clients from the settings and owns their life.

    With ``listen=False`` there is no server, and `address` stays empty.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        identity: Identity,
        handler: LinkHandler,
        *,
        plane: str | None = None,
        listen: bool = True,
    ) -> None:
        self.settings = settings
        self._identity = identity
        self._handler = handler
        self._scheme = plane or settings.request_plane
        self._server: RequestPlaneServer | None = None
        self._clients: dict[str, RequestPlaneClient] = {}
        self._store: DurableStore | None = None
        self._closed = False
        if listen:
            self._server = get_plane(self._scheme).server(identity, handler, settings)

    def __repr__(self) -> str:
        return f"<NetworkManager {self._scheme} {self.address or 'does not listen'}>"

    @property
    def address(self) -> str:
        """Where others reach this process; empty if it does not listen."""
        return self._server.address if self._server is not None else ""

    @property
    def exposes(self) -> bool:
        """True if the server gives each actor an address of its own."""
        return isinstance(self._server, EndpointServer)

    async def expose(self, endpoint: Endpoint) -> None:
        """See `EndpointServer.expose`; nothing to do on a plane without it."""
        if isinstance(self._server, EndpointServer):
            await self._server.expose(endpoint)

    async def withdraw(self, name: str, grace_s: float = 0.0) -> None:
        """See `EndpointServer.withdraw`; nothing to do on a plane without it."""
        if isinstance(self._server, EndpointServer):
            await self._server.withdraw(name, grace_s)

    def gives_endpoints(self, address: str) -> bool:
        """True if links to ``address`` are a `LaneLink`; False for what cannot be dialled anyway."""
        try:
            return get_plane(Address.parse(address).scheme).capabilities.endpoints
        except TransportError:
            return False

    def durable_store(self) -> DurableStore:
        """The store of durable messages of this process, one object. Raises `ConfigError` on a plane without one."""
        if self._store is None:
            plane = get_plane(self._scheme)
            if not plane.capabilities.durable:
                raise ConfigError(
                    f"durable tells need the nats request plane, and it is {self._scheme}; set"
                    ' request_plane = "nats" (DYN_REQUEST_PLANE, --plane), or leave durable out'
                )
            assert isinstance(plane, DurablePlane)
            self._store = plane.durable_store(self._identity, self.settings)
        return self._store

    async def start(self) -> None:
        """Bind the server. Raises `AddressInUse` and other `TransportError`."""
        if self._server is not None:
            await self._server.start()

    async def connect(self, address: str, *, node: str | None = None) -> Link:
        """Return the link to ``address``; see `RequestPlaneClient.connect`."""
        if self._closed:
            raise Closed(address, "the network of this process was closed")
        scheme = Address.parse(address).scheme
        client = self._clients.get(scheme)
        if client is None:
            client = get_plane(scheme).client(self._identity, self._handler, self.settings)
            self._clients[scheme] = client
        return await client.connect(address, node=node)

    def statistics(self) -> dict[str, PlaneStatistics]:
        """Counters of the server and of each client."""
        found = {f"client {scheme}": client.statistics() for scheme, client in self._clients.items()}
        if self._server is not None:
            found["server"] = self._server.statistics()
        return found

    async def close(self) -> None:
        """End all links and unbind; idempotent."""
        self._closed = True
        if self._store is not None:
            await self._store.close()
        for client in self._clients.values():
            await client.close()
        if self._server is not None:
            await self._server.close()
