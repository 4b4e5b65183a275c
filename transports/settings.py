"""Settings of the network of one process: validated at once, every mistake reported together.

Durations are in seconds, sizes in bytes. The ``DYN_*`` names and defaults are those of NVIDIA Dynamo's
request plane; each field says what it means on this runtime.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .address import is_loopback
from .errors import ConfigError
from .schemes import known_schemes, unknown_plane

MIB = 1024 * 1024
SMALLEST_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How one process talks to others."""

    request_plane: str = "tcp"
    """``DYN_REQUEST_PLANE``: scheme of the plane that the process listens on."""
    host: str = "127.0.0.1"
    """``DYN_TCP_RPC_HOST``: address to bind; one that is not loopback needs ``insecure``."""
    port: int = 0
    """``DYN_TCP_RPC_PORT``: port to bind; 0 lets the system choose."""
    max_message_bytes: int = 32 * MIB
    """``DYN_TCP_MAX_MESSAGE_SIZE``: checked by the sender, and by the receiver before it takes memory."""
    shrink_message_bytes: int = 8 * MIB
    """``DYN_TCP_SHRINK_MESSAGE_SIZE``: memory of messages above this goes back to the system."""
    request_timeout_s: float = 10.0
    """``DYN_TCP_REQUEST_TIMEOUT``: deadline of an ask that names none."""
    pool_size: int = 50
    """``DYN_TCP_POOL_SIZE``: idle links kept open; the one idle longest is closed above it."""
    connect_timeout_s: float = 3.0
    """``DYN_TCP_CONNECT_TIMEOUT``: limit for connection and handshake together."""
    channel_buffer: int = 100
    """``DYN_TCP_CHANNEL_BUFFER``: messages (batches) queued per link before it counts as full."""
    insecure: bool = False
    """Allow a bind that is not loopback without keys."""
    ipc: bool = True
    """Use a unix socket between processes of one host."""
    ipc_directory: str = ""
    """Directory (mode 0700) for these sockets; empty: one of its own below the temporary directory."""
    linger_s: float = 1.0
    """How long `close` waits for what is queued."""
    heartbeat_interval_s: float = 1.0
    """How often a silent link is probed."""
    heartbeat_timeout_s: float = 3.0
    """Silence after which a link counts as broken."""
    idle_close_s: float = 300.0
    """A link that has been idle for so long is closed."""
    strict_env: bool = False
    """Make an invalid ``DYN_REQUEST_PLANE`` an error instead of a warning."""

    def __post_init__(self) -> None:
        problems = [*_wrong_types(self), *_out_of_range(self)]
        if problems:
            raise ConfigError(problems)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str], base: NetworkSettings | None = None, *, strict: bool | None = None
    ) -> NetworkSettings:
        """Return ``base`` with what the environment sets. Pure but for a warning.

        Raises `ConfigError` with one line for each variable that is wrong.
        """
        base = base or cls()
        problems: list[str] = []
        changes: dict[str, Any] = {}
        for variable, (name, read) in _VARIABLES.items():
            text = environ.get(variable)
            if text is None or not text.strip():
                continue
            try:
                changes[name] = read(text.strip())
            except ValueError as error:
                problems.append(f"{variable} is {text!r}: {error}")
        plane = environ.get("DYN_REQUEST_PLANE", "").strip().lower()
        if plane and plane not in known_schemes():
            text = f"DYN_REQUEST_PLANE: {unknown_plane(plane)}"
            if base.strict_env if strict is None else strict:
                problems.append(text)
            else:
                warnings.warn(f"{text}; falling back to tcp", RuntimeWarning, stacklevel=2)
                changes["request_plane"] = "tcp"
        elif plane:
            changes["request_plane"] = plane
        for name in list(changes):  # one by one, so that each wrong value is reported with its variable
            try:
                dataclasses.replace(base, **{name: changes[name]})
            except ConfigError as error:
                if name == "shrink_message_bytes" and changes.get("max_message_bytes", 0) >= changes[name]:
                    continue
                if name == "max_message_bytes" and changes.get("shrink_message_bytes", MIB) <= changes[name]:
                    continue
                if name == "host" and environ.get("CALLBOARD_INSECURE"):
                    continue
                problems += [f"{_variable_of(name)}: {problem}" for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        return dataclasses.replace(base, **changes)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("it must be a whole number") from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("it must be a number of seconds") from None


_VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "DYN_TCP_RPC_HOST": ("host", str),
    "DYN_TCP_RPC_PORT": ("port", _whole),
    "DYN_TCP_MAX_MESSAGE_SIZE": ("max_message_bytes", _whole),
    "DYN_TCP_SHRINK_MESSAGE_SIZE": ("shrink_message_bytes", _whole),
    "DYN_TCP_REQUEST_TIMEOUT": ("request_timeout_s", _seconds),
    "DYN_TCP_POOL_SIZE": ("pool_size", _whole),
    "DYN_TCP_CONNECT_TIMEOUT": ("connect_timeout_s", _seconds),
    "DYN_TCP_CHANNEL_BUFFER": ("channel_buffer", _whole),
}


def _variable_of(name: str) -> str:
    for variable, (field, _) in _VARIABLES.items():
        if field == name:
            return variable
    return "DYN_REQUEST_PLANE"


def _wrong_types(settings: NetworkSettings) -> list[str]:
    problems = []
    for field in dataclasses.fields(settings):
        value, wanted = getattr(settings, field.name), type(field.default)
        fits = isinstance(value, wanted) or (wanted is float and type(value) is int)
        if not fits or (wanted in (int, float) and isinstance(value, bool)):
            problems.append(f"{field.name} is {value!r}; it must be a {wanted.__name__}")
    return problems


def _out_of_range(settings: NetworkSettings) -> list[str]:
    s = settings
    problems = []
    if isinstance(s.request_plane, str) and s.request_plane not in known_schemes():
        problems.append(unknown_plane(s.request_plane))
    if _is_number(s.port) and not 0 <= s.port <= 65535:
        problems.append(f"port is {s.port}; it must be between 0 and 65535")
    for name, least in _AT_LEAST.items():
        value = getattr(s, name)
        if _is_number(value) and not value >= least:
            problems.append(f"{name} is {value}; it must be at least {least}")
    for name in ("request_timeout_s", "connect_timeout_s", "heartbeat_interval_s", "idle_close_s"):
        value = getattr(s, name)
        if _is_number(value) and not value > 0:
            problems.append(f"{name} is {value}; it must be above 0")
    sizes = _is_number(s.shrink_message_bytes) and _is_number(s.max_message_bytes)
    if sizes and s.shrink_message_bytes > s.max_message_bytes:
        problems.append(
            f"shrink_message_bytes is {s.shrink_message_bytes}; it must not exceed max_message_bytes "
            f"({s.max_message_bytes})"
        )
    beats = _is_number(s.heartbeat_timeout_s) and _is_number(s.heartbeat_interval_s)
    if beats and s.heartbeat_timeout_s <= s.heartbeat_interval_s:
        problems.append(
            f"heartbeat_timeout_s is {s.heartbeat_timeout_s}; it must be above heartbeat_interval_s "
            f"({s.heartbeat_interval_s})"
        )
    if isinstance(s.host, str) and not s.insecure and not is_loopback(s.host):
        problems.append(
            f"host is {s.host!r}, which other machines can reach, and there are no keys yet: anybody could "
            "call every actor; bind 127.0.0.1, or set insecure = true if the network is closed"
        )
    return problems


_AT_LEAST: dict[str, float] = {
    "max_message_bytes": SMALLEST_LIMIT_BYTES,
    "shrink_message_bytes": 0,
    "pool_size": 1,
    "channel_buffer": 1,
    "linger_s": 0,
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
