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
from .errors import Closed, TransportError
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

    def withdraw(self, name: str) -> None:
        """See `EndpointServer.withdraw`; nothing to do on a plane without it."""
        if isinstance(self._server, EndpointServer):
            self._server.withdraw(name)

    def gives_endpoints(self, address: str) -> bool:
        """True if links to ``address`` are a `LaneLink`; False for what cannot be dialled anyway."""
        try:
            return get_plane(Address.parse(address).scheme).capabilities.endpoints
        except TransportError:
            return False

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
        for client in self._clients.values():
            await client.close()
        if self._server is not None:
            await self._server.close()
