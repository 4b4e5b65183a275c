"""Settings of the network of one process: validated at once, every mistake reported together.

Durations are in seconds, sizes in bytes. The ``DYN_*`` names and defaults are those of NVIDIA Dynamo's
request plane; each field says what it means on this runtime.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import nats_settings
from .address import is_loopback
from .errors import ConfigError
from .events.names import DEFAULT, known_event_planes, unknown_event_plane
from .host import is_host
from .nats_settings import NatsSettings
from .schemes import known_schemes, unknown_plane
from .setting_rules import LONGEST_S, Problem, allowed, fits, named, read_flag

MIB = 1024 * 1024
SMALLEST_LIMIT_BYTES = 64 * 1024
SHRINK_BYTES = 8 * MIB
_DEFAULT_NATS = NatsSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How one process talks to others. What differs on nats stands behind "On nats:"."""

    request_plane: str = "tcp"
    """``DYN_REQUEST_PLANE``: scheme of the plane that the process listens on."""
    event_plane: str = "zmq"
    """``DYN_EVENT_PLANE``: how events travel, beside the request plane: ``zmq``, ``nats``, ``jetstream``, ``none``."""
    host: str = "127.0.0.1"
    """``DYN_TCP_RPC_HOST``: address to bind; one that is not loopback needs ``insecure``. ``auto`` is the address of
    this machine that others can reach; with ``0.0.0.0`` and ``::`` it is the one that others are told.
    On nats: no effect, nothing is bound."""
    port: int = 0
    """``DYN_TCP_RPC_PORT``: port to bind; 0 lets the system choose. The first process of a system has this one, the
    others those after it. On nats: no effect, nothing is bound."""
    max_message_bytes: int = 32 * MIB
    """``DYN_TCP_MAX_MESSAGE_SIZE``: checked by the sender, and by the receiver before it takes memory.
    On nats: the same; what is above the server's ``max_payload`` travels in pieces."""
    shrink_message_bytes: int = SHRINK_BYTES
    """``DYN_TCP_SHRINK_MESSAGE_SIZE``: memory of messages above this goes back to the system. Not above the limit of
    a message; only the default may be, and then has no effect. On nats: no effect."""
    shared_memory_bytes: int = 256 * MIB
    """``CALLBOARD_SHARED_MEMORY_BYTES``: memory in which a process hands large buffers to others of its host; what does
    not fit travels over the link. 0: none. What was not used for 5 s goes back to the system."""
    request_timeout_s: float = 10.0
    """``DYN_TCP_REQUEST_TIMEOUT``: deadline of an ask that names none."""
    pool_size: int = 50
    """``DYN_TCP_POOL_SIZE``: idle links kept open; the one idle longest is closed above it.
    On nats: the same, although all links share one connection."""
    connect_timeout_s: float = 3.0
    """``DYN_TCP_CONNECT_TIMEOUT``: limit for connection and handshake together.
    On nats: the same, the way to the server included if there is no connection."""
    channel_buffer: int = 100
    """``DYN_TCP_CHANNEL_BUFFER``: messages (batches) that the sender queues per link before
    it counts as full; what a busy receiver has not read yet is bounded by credit, not by this.
    On nats: the same, behind a window of bytes that the peer has not acknowledged."""
    insecure: bool = False
    """Allow a bind that is not loopback without keys.
    On nats: allow a server that is not loopback without TLS and without credentials."""
    ipc: bool = True
    """Use a unix socket between processes of one host. On nats: no effect."""
    ipc_directory: str = ""
    """Directory (mode 0700) for these sockets; empty: one of its own below the temporary directory.
    On nats: no effect."""
    linger_s: float = 1.0
    """How long `close` waits for what is queued."""
    heartbeat_interval_s: float = 1.0
    """How often a silent link is probed. On nats: the same, and the connection to the server."""
    heartbeat_timeout_s: float = 3.0
    """Silence after which a link counts as broken; at least twice the interval.
    On nats: the same, and the connection to the server."""
    idle_close_s: float = 300.0
    """A link that has been idle for so long is closed."""
    encode_in_process: bool = False
    """``CALLBOARD_ENCODE_IN_PROCESS``: encode and decode messages within one process, too. For development: finds what
    is shared by accident, and what would not travel. On nats: the same."""
    strict_env: bool = False
    """Make an invalid ``DYN_REQUEST_PLANE`` or ``DYN_EVENT_PLANE`` an error instead of a warning."""
    nats: NatsSettings = _DEFAULT_NATS
    """How NATS is reached; a mapping, such as JSON gives, is taken too."""

    def __post_init__(self) -> None:
        if isinstance(self.request_plane, str):
            object.__setattr__(self, "request_plane", self.request_plane.lower())
        if isinstance(self.event_plane, str):
            object.__setattr__(self, "event_plane", self.event_plane.lower())
        found: list[Problem] = []
        if isinstance(self.nats, Mapping):
            built, found = _nested(self.nats)
            object.__setattr__(self, "nats", built)
        found += problems(plain(self))
        if found:
            raise ConfigError(problem.text for problem in found)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str], base: NetworkSettings | None = None, *, strict: bool | None = None
    ) -> NetworkSettings:
        """Return ``base`` with what the environment sets; an empty variable sets nothing. Pure but for a warning.

        Raises `ConfigError` with one line for each variable that is wrong.
        """
        base = base or cls()
        changes, causes, lines = read_environment(environ)
        try:
            changes["nats"] = NatsSettings.from_env(environ, base.nats)
            if environ.get("NATS_SERVER", "").strip():
                causes["NATS_SERVER"] = "nats"
        except ConfigError as error:
            lines.extend(error.problems)
        for name, (plane, warning) in planes_from_env(environ).items():
            if warning and (base.strict_env if strict is None else strict):
                lines.append(warning)
            elif warning:
                warnings.warn(f"{warning}; falling back to {plane}", RuntimeWarning, stacklevel=2)
            if plane:
                changes[name] = plane
        values = plain(base) | changes
        for problem in problems(values):
            lines.append(named([v for v, name in causes.items() if name in problem.fields], problem))
        if lines:
            raise ConfigError(lines)
        return cls(**values)


def read_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """What ``DYN_TCP_*`` sets, by field; which variables set it; and a line for each that cannot be read."""
    changes: dict[str, Any] = {}
    causes, lines = {}, []
    for variable, name in VARIABLES.items():
        text = environ.get(variable, "").strip()
        try:
            if text:
                changes[name] = read_flag(text) if _TYPES[name] is bool else _TYPES[name](text)
                causes[variable] = name
        except ValueError:
            lines.append(f"{variable} is {text!r}; it must be {_allowed(name)}")
    return changes, causes, lines


def plane_from_env(environ: Mapping[str, str]) -> tuple[str, str]:
    """The plane that ``DYN_REQUEST_PLANE`` means, empty if unset, tcp if nobody knows it; and what is wrong then."""
    plane = environ.get("DYN_REQUEST_PLANE", "").strip().lower()
    if not plane or plane in known_schemes():
        return plane, ""
    return "tcp", f"DYN_REQUEST_PLANE: {unknown_plane(plane)}"


def event_plane_from_env(environ: Mapping[str, str]) -> tuple[str, str]:
    """The same for ``DYN_EVENT_PLANE``: zmq if nobody knows it, or it does not leave a process."""
    plane = environ.get("DYN_EVENT_PLANE", "").strip().lower()
    if not plane or plane in known_event_planes():
        return plane, ""
    return DEFAULT, f"DYN_EVENT_PLANE: {unknown_event_plane(plane)}"


def planes_from_env(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Both, by the names of the settings."""
    return {"request_plane": plane_from_env(environ), "event_plane": event_plane_from_env(environ)}


VARIABLES: dict[str, str] = {
    "DYN_TCP_RPC_HOST": "host",
    "DYN_TCP_RPC_PORT": "port",
    "DYN_TCP_MAX_MESSAGE_SIZE": "max_message_bytes",
    "DYN_TCP_SHRINK_MESSAGE_SIZE": "shrink_message_bytes",
    "CALLBOARD_SHARED_MEMORY_BYTES": "shared_memory_bytes",
    "DYN_TCP_REQUEST_TIMEOUT": "request_timeout_s",
    "DYN_TCP_POOL_SIZE": "pool_size",
    "DYN_TCP_CONNECT_TIMEOUT": "connect_timeout_s",
    "DYN_TCP_CHANNEL_BUFFER": "channel_buffer",
    "CALLBOARD_ENCODE_IN_PROCESS": "encode_in_process",
}

RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "max_message_bytes": (SMALLEST_LIMIT_BYTES, 1024**4),
    "shrink_message_bytes": (0, 1024**4),
    "shared_memory_bytes": (0, 1024**4),
    "request_timeout_s": (0.001, LONGEST_S),
    "pool_size": (1, 1_000_000),
    "connect_timeout_s": (0.001, LONGEST_S),
    "channel_buffer": (1, 1_000_000),
    "linger_s": (0, LONGEST_S),
    "heartbeat_interval_s": (0.01, LONGEST_S),
    "heartbeat_timeout_s": (0.02, LONGEST_S),
    "idle_close_s": (0.001, LONGEST_S),
}


def plain(settings: NetworkSettings) -> dict[str, Any]:
    """The values of all fields by name."""
    return {name: getattr(settings, name) for name in _TYPES}


def defaults() -> dict[str, Any]:
    """The defaults of all fields by name."""
    return plain(NetworkSettings())


def _nested(values: Mapping[str, Any]) -> tuple[NatsSettings, list[Problem]]:
    built, found = nats_settings.from_plain(values)
    return built or NatsSettings(), [Problem(("nats",), f"nats.{problem.text}") for problem in found]


def _allowed(name: str) -> str:
    return (
        "a NatsSettings or a mapping of its fields" if name == "nats" else allowed(name, _TYPES[name], RANGES)
    )


def problems(values: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong with the values of all fields. Pure."""
    wrong = {name for name, value in values.items() if not fits(name, _TYPES[name], value, RANGES)}
    found = [
        Problem((name,), f"{name} is {values[name]!r}; it must be {_allowed(name)}")
        for name in values
        if name in wrong
    ]
    if "request_plane" not in wrong and values["request_plane"] not in known_schemes():
        found.append(Problem(("request_plane",), unknown_plane(values["request_plane"])))
    least, most = values["shrink_message_bytes"], values["max_message_bytes"]
    sizes_fit = not wrong & {"shrink_message_bytes", "max_message_bytes"}
    if sizes_fit and least > most and least != SHRINK_BYTES:
        text = f"shrink_message_bytes is {least}; it must not exceed max_message_bytes ({most})"
        found.append(Problem(("shrink_message_bytes", "max_message_bytes"), text))
    silence, interval = values["heartbeat_timeout_s"], values["heartbeat_interval_s"]
    if not wrong & {"heartbeat_timeout_s", "heartbeat_interval_s"} and silence < 2 * interval:
        text = (
            f"heartbeat_timeout_s is {silence}; it must be at least twice heartbeat_interval_s ({interval})"
        )
        found.append(Problem(("heartbeat_timeout_s", "heartbeat_interval_s"), text))
    host = values["host"]
    if "host" not in wrong and not is_host(host):
        wrong.add("host")
        text = f'host is {host!r}; it must be an IP address to bind, 0.0.0.0 or :: for all of them, or "auto"'
        found.append(Problem(("host",), text))
    if not wrong & {"host", "insecure"} and not values["insecure"] and not is_loopback(host):
        text = (
            f"host is {host!r}, which other machines can reach, and there are no keys yet: anybody could "
            "call every actor; bind 127.0.0.1, or set insecure = true if the network is closed"
        )
        found.append(Problem(("host", "insecure"), text))
    if not wrong & {"nats", "insecure"} and values["request_plane"] == "nats" and not values["insecure"]:
        found += _open_servers(values["nats"])
    return found


def _open_servers(nats: NatsSettings) -> list[Problem]:
    if not (servers := nats.open_servers()):
        return []
    text = (
        f"nats.servers is {', '.join(servers)!r}, which other machines can reach, without TLS and without credentials: "
        "anybody could call every actor; set credentials (NATS_AUTH_*) or TLS (tls://, NATS_TLS_*), or insecure = true "
        "if the network is closed"
    )
    return [Problem(("nats", "insecure"), text)]


_TYPES: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(NetworkSettings)}
