"""The tcp and ipc planes on pyzmq."""

from __future__ import annotations

from .base import Capabilities, Identity, LinkHandler
from .settings import NetworkSettings
from .tcp_client import TcpClient
from .tcp_server import TcpServer


class TcpPlane:
    """TCP, with a unix socket as a short cut between processes of one host (``NetworkSettings.ipc``)."""

    capabilities = Capabilities(
        scheme="tcp",
        summary="pyzmq over TCP, unix sockets within a host",
        between_processes=True,
        between_hosts=True,
        notices_death=True,
    )

    def server(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> TcpServer:
        """See `Plane.server`."""
        return TcpServer(identity, handler, settings, tcp=True, ipc=settings.ipc)

    def client(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> TcpClient:
        """See `Plane.client`."""
        return TcpClient(identity, handler, settings)


class IpcPlane:
    """Unix sockets only."""

    capabilities = Capabilities(
        scheme="ipc",
        summary="pyzmq over unix sockets",
        between_processes=True,
        between_hosts=False,
        notices_death=True,
    )

    def server(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> TcpServer:
        """See `Plane.server`."""
        return TcpServer(identity, handler, settings, tcp=False, ipc=True)

    def client(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> TcpClient:
        """See `Plane.client`."""
        return TcpClient(identity, handler, settings)
