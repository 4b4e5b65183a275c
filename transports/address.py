"""Addresses of nodes: ``scheme://place?key=value``. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlsplit

from .errors import BadAddress


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. ``place`` is ``host:port`` for tcp, a path for ipc, a name for memory."""

    scheme: str
    place: str
    options: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        query = "&".join(f"{key}={quote(value, safe='/')}" for key, value in self.options.items())
        return f"{self.scheme}://{self.place}{'?' + query if query else ''}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address; raises `BadAddress`."""
        scheme, separator, rest = text.partition("://")
        if not separator or not scheme:
            raise BadAddress(text, "it has no scheme; write for example tcp://127.0.0.1:4567")
        if not scheme.replace("-", "").replace("+", "").isalnum():
            raise BadAddress(text, f"{scheme!r} is not a scheme")
        place, _, query = rest.partition("?")
        if not place:
            raise BadAddress(text, "nothing follows the scheme")
        return cls(scheme.lower(), place, dict(parse_qsl(query)))

    def host_port(self) -> tuple[str, int]:
        """Split ``host:port``; raises `BadAddress`."""
        try:
            parts = urlsplit(f"//{self.place}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise BadAddress(str(self), str(error)) from None
        if not host or port is None:
            raise BadAddress(str(self), "it needs a host and a port")
        if parts.username is not None or parts.path or parts.fragment:
            raise BadAddress(str(self), "there is more to it than a host and a port")
        return host, port


def is_loopback(host: str) -> bool:
    """True if only this machine can reach a socket bound to ``host``. Names are never resolved.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_numeric(host: str) -> bool:
    """True for an IP address, False for a name.

    >>> is_numeric("127.0.0.1"), is_numeric("::1"), is_numeric("localhost")
    (True, True, False)
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
