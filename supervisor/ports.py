"""Which port each process listens on, if the settings fix one: the first it, the others those after it. Pure."""

from __future__ import annotations

from callboard.transports.settings import NetworkSettings

from .errors import StartupFailed

LAST_PORT = 65_535
SETTING = "network.port (DYN_TCP_RPC_PORT)"
PORTLESS = ("nats", "ipc", "memory")
"""Planes on which ``port`` has no effect."""


def port_of(settings: NetworkSettings, position: int) -> int:
    """Return the port of the process at a position, counted from 0; 0 if the system chooses."""
    fixed = settings.port if settings.request_plane not in PORTLESS else 0
    return fixed + position if fixed else 0


def problem(settings: NetworkSettings, processes: int) -> str:
    """Return what is wrong with the fixed port for that many processes; empty if nothing is.

    >>> problem(NetworkSettings(port=65_534), 2)
    ''
    """
    last = port_of(settings, processes - 1)
    if last <= LAST_PORT:
        return ""
    return (
        f"{SETTING} is {settings.port}, and {processes} processes listen on it and the ports after it, up to {last};"
        f" the last port there is is {LAST_PORT}: set it to {LAST_PORT - processes + 1} or lower, or to 0 so that the"
        " system chooses"
    )


def with_range(error: StartupFailed, settings: NetworkSettings, processes: int) -> StartupFailed:
    """Return the error of a process whose port was taken with the ports of them all in it, any other as it is."""
    if processes < 2 or not port_of(settings, 0) or not error.why.startswith("AddressInUse"):
        return error
    ports = f"{settings.port} to {port_of(settings, processes - 1)}"
    why = f"{error.why}; {processes} processes need the ports {ports}, one each"
    return StartupFailed(error.place, why, error.remote_traceback)
