"""Which address of this machine others can reach. Nothing is sent to find out."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress

from .address import is_numeric
from .errors import BadAddress

AUTO = "auto"
WILDCARDS = ("0.0.0.0", "::")

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_DISTANT = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses that are nobody's (RFC 5737, RFC 3849)."""


def is_host(text: str) -> bool:
    """True for an IP address, with brackets or without, and for what can be a name.

    >>> is_host("[::1]"), is_host("auto"), is_host("not a host")
    (True, True, False)
    """
    return is_numeric(text.strip("[]")) or _NAME.fullmatch(text) is not None


def first_reachable(addresses: Iterable[str], *, ipv6: bool) -> str:
    """Return the first IPv4 address that others can reach; if there is none and ``ipv6``, the first such IPv6 address.

    Empty if there is none at all. Pure.

    >>> first_reachable(["127.0.0.1", "fe80::1", "2001:db8::7", "10.1.2.3"], ipv6=True)
    '10.1.2.3'
    """
    parsed = [ipaddress.ip_address(address.partition("%")[0]) for address in addresses]
    good = [
        address
        for address in parsed
        if not (
            address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
        )
    ]
    ordered = [a for a in good if a.version == 4] + [a for a in good if a.version == 6 and ipv6]
    return str(ordered[0]) if ordered else ""


def own_addresses() -> Iterator[str]:
    """Addresses of this machine: first those that a packet to elsewhere comes from, then those of all interfaces."""
    for family, distant in _DISTANT:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((distant, 9))  # of a datagram socket: looks up the route, and sends nothing
            yield str(probe.getsockname()[0])
    import psutil

    states = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        if name in states and states[name].isup:
            yield from (a.address for a in addresses if a.family in (socket.AF_INET, socket.AF_INET6))


def places(host: str) -> tuple[str, str]:
    """Return what to bind for the setting ``host``, and the address to give to others, empty if it is what was bound.

    ``auto`` binds the one address that others can reach, a wildcard binds all. Raises `BadAddress` if there is none.
    """
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    if host not in (AUTO, *WILDCARDS):
        return host, ""
    found = first_reachable(own_addresses(), ipv6=host != "0.0.0.0")
    if not found:
        raise BadAddress(
            f"tcp://{host}",
            "this machine has no address that others can reach, only loopback; connect it to a network, or set "
            "network.host (DYN_TCP_RPC_HOST) to 127.0.0.1 or to the address to use",
        )
    return (found, "") if host == AUTO else (host, found)


def bracketed(host: str) -> str:
    """The host as it stands before a port.

    >>> bracketed("::1"), bracketed("127.0.0.1")
    ('[::1]', '127.0.0.1')
    """
    return f"[{host}]" if ":" in host else host
