"""Settings of the connection to NATS: validated at once, every mistake reported together, no secret ever shown.

The names and the order of precedence of the ``NATS_*`` variables are those of NVIDIA Dynamo.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import SplitResult, urlsplit

from .address import is_loopback
from .errors import ConfigError, MissingExtra, did_you_mean
from .setting_rules import LONGEST_S, Problem, allowed, fits, named, read_flag

DEFAULT_PORT = 4222
SEED_LENGTH = 58


class Credentials(Enum):
    """Which credentials are used; in the order in which the first complete ones win."""

    PASSWORD = ("username", "password")
    TOKEN = ("token",)
    NKEY = ("nkey",)
    FILE = ("credentials_file",)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NatsSettings:
    """How one process reaches NATS. Secrets are in the fields and in nothing that is printed."""

    servers: tuple[str, ...] = ("nats://localhost:4222",)
    """``NATS_SERVER``: servers of one cluster, separated by commas; ``nats://`` or ``tls://``, port 4222 if none."""
    username: str = ""
    """``NATS_AUTH_USERNAME``: goes with the password."""
    password: str = ""
    """``NATS_AUTH_PASSWORD``: goes with the username."""
    token: str = ""
    """``NATS_AUTH_TOKEN``: used if there is no username."""
    nkey: str = ""
    """``NATS_AUTH_NKEY``: seed of a user (SU...); used if there is no username and no token."""
    credentials_file: str = ""
    """``NATS_AUTH_CREDENTIALS_FILE``: JWT and seed as `nsc` writes them; used if there is nothing else."""
    tls_ca_cert_path: str = ""
    """``NATS_TLS_CA_CERT_PATH``: PEM file of the authority that signed the server's certificate; makes TLS required."""
    tls_insecure: bool = False
    """``NATS_TLS_INSECURE``: encrypt, but do not check who the server is; makes TLS required."""
    tls_client_cert_path: str = ""
    """``NATS_TLS_CLIENT_CERT_PATH``: PEM file of the certificate shown to the server; makes TLS required."""
    tls_client_key_path: str = ""
    """``NATS_TLS_CLIENT_KEY_PATH``: PEM file of the key of that certificate."""
    startup_connect_timeout_s: float = 10.0
    """``NATS_STARTUP_CONNECT_TIMEOUT_SECONDS``: how long a start tries to reach a server before it fails."""
    prefix: str = "callboard"
    """First token of every subject; keeps installations on one server apart."""

    def __post_init__(self) -> None:
        if isinstance(self.servers, list):
            object.__setattr__(self, "servers", tuple(self.servers))
        if found := problems(plain(self)):
            raise ConfigError(problem.text for problem in found)
        object.__setattr__(self, "servers", tuple(map(_with_port, self.servers)))

    def __repr__(self) -> str:
        shown = {name: value for name, value in plain(self).items() if value != _DEFAULTS[name]}
        shown |= dict.fromkeys(shown.keys() & SECRETS, "<set>")
        shown["servers"] = tuple(map(without_password, self.servers))
        return f"NatsSettings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def credentials(self) -> Credentials | None:
        """Which credentials are used; None if there are none but what the URLs hold."""
        return next((kind for kind in Credentials if all(getattr(self, name) for name in kind.value)), None)

    @property
    def uses_tls(self) -> bool:
        """True if every connection must be encrypted: a ``tls://`` server or any setting of TLS."""
        return (
            any(server.startswith("tls:") for server in self.servers)
            or self.tls_insecure
            or bool(self.tls_ca_cert_path or self.tls_client_cert_path)
        )

    def open_servers(self) -> list[str]:
        """The servers that others can reach and that are to be used without TLS and without credentials."""
        if self.credentials is not None or self.uses_tls:
            return []
        urls = ((server, urlsplit(server)) for server in self.servers)
        return [server for server, url in urls if not url.username and not is_loopback(url.hostname or "")]

    def require_extras(self) -> None:
        """Raise `MissingExtra` if the credentials need a package that is not installed."""
        if self.credentials in (Credentials.NKEY, Credentials.FILE) and not importlib.util.find_spec("nkeys"):
            raise MissingExtra("nats", "secure", "nkeys")

    @classmethod
    def from_env(cls, environ: Mapping[str, str], base: NatsSettings | None = None) -> NatsSettings:
        """Return ``base`` with what the environment sets; an empty variable sets nothing.

        Credentials in the environment put those of another kind in ``base`` out of use. A relative path is one in the
        working directory. Raises `ConfigError` with one line for each variable that is wrong.
        """
        changes, causes, lines = read_environment(environ)
        values = overlay(plain(base or cls()), changes)
        for problem in problems(values):
            lines.append(named([v for v, name in causes.items() if name in problem.fields], problem))
        if lines:
            raise ConfigError(lines)
        return cls(**values)


VARIABLES: dict[str, str] = {
    "NATS_SERVER": "servers",
    "NATS_AUTH_USERNAME": "username",
    "NATS_AUTH_PASSWORD": "password",
    "NATS_AUTH_TOKEN": "token",
    "NATS_AUTH_NKEY": "nkey",
    "NATS_AUTH_CREDENTIALS_FILE": "credentials_file",
    "NATS_TLS_CA_CERT_PATH": "tls_ca_cert_path",
    "NATS_TLS_INSECURE": "tls_insecure",
    "NATS_TLS_CLIENT_CERT_PATH": "tls_client_cert_path",
    "NATS_TLS_CLIENT_KEY_PATH": "tls_client_key_path",
    "NATS_STARTUP_CONNECT_TIMEOUT_SECONDS": "startup_connect_timeout_s",
}
SECRETS = frozenset({"password", "token", "nkey"})
PATHS = ("credentials_file", "tls_ca_cert_path", "tls_client_cert_path", "tls_client_key_path")
RANGES: dict[str, tuple[float, float]] = {"startup_connect_timeout_s": (0.001, LONGEST_S)}

_TYPES: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(NatsSettings)}
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(NatsSettings)}
_PAIRS = (("username", "password"), ("tls_client_cert_path", "tls_client_key_path"))
_PREFIX = re.compile(r"[A-Za-z0-9_-]+")
_SEED = re.compile(r"SU[A-Z2-7]*")


def plain(settings: NatsSettings) -> dict[str, Any]:
    """The values of all fields by name, secrets and all."""
    return {name: getattr(settings, name) for name in _TYPES}


def read_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """What the environment sets, by field; which variables set it; and a line for each that cannot be read."""
    changes: dict[str, Any] = {}
    causes, lines = {}, []
    for variable, name in VARIABLES.items():
        text = environ.get(variable, "")
        try:
            if text.strip():
                changes[name] = _read(name, text)
                causes[variable] = name
        except ValueError:
            lines.append(f"{variable} is {text!r}; it must be {allowed(name, _TYPES[name], RANGES)}")
    return changes, causes, lines


def overlay(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes over them; credentials among these put those of every other kind out of use."""
    result = dict(values)
    given = {kind for kind in Credentials if changes.keys() & set(kind.value)}
    if given:
        result |= {name: "" for kind in set(Credentials) - given for name in kind.value}
    return {**result, **changes}


def from_plain(values: Mapping[str, Any]) -> tuple[NatsSettings | None, list[Problem]]:
    """Build settings from values by name, such as JSON or TOML give; or tell everything that is wrong with them."""
    found = [
        Problem((name,), f'unknown setting "{name}"{did_you_mean(name, _TYPES)}')
        for name in values
        if name not in _TYPES
    ]
    known = {name: value for name, value in values.items() if name in _TYPES}
    if isinstance(known.get("servers"), list):
        known["servers"] = tuple(known["servers"])
    found += problems(_DEFAULTS | known)
    return (None, found) if found else (NatsSettings(**known), [])


def problems(values: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong with the values of all fields; looks whether files can be read."""
    wrong = {name for name in values if not fits(name, _TYPES[name], values[name], RANGES)}
    found = [
        Problem(
            (name,),
            f"{name} is {_shown(name, values[name])}; it must be {allowed(name, _TYPES[name], RANGES)}",
        )
        for name in values
        if name in wrong
    ]
    checks: dict[str, Callable[[Any], str]] = {
        "servers": _wrong_servers,
        **dict.fromkeys(("username", "password", "token"), _wrong_text),
        "nkey": _wrong_seed,
        **dict.fromkeys(PATHS, _wrong_path),
        "prefix": _wrong_prefix,
    }
    for name, check in checks.items():
        if name not in wrong and values[name] != _DEFAULTS[name] and (why := check(values[name])):
            wrong.add(name)
            found.append(Problem((name,), f"{name} is {_shown(name, values[name])}{why}"))
    for pair in _PAIRS:
        given = [name for name in pair if values[name]]
        if len(given) == 1 and not wrong & set(pair):
            (missing,) = set(pair) - set(given)
            text = f"{given[0]} is {_shown(given[0], values[given[0]])}, but {missing} is not set; set both or neither"
            found.append(Problem((given[0], missing), text))
    return found


def without_password(url: str) -> str:
    """The URL as it may be shown.

    >>> without_password("nats://ann:secret@db:4222")
    'nats://ann:***@db:4222'
    """
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, separator, user = head.rpartition("://")
    name, colon, _ = user.partition(":")
    return f"{scheme}{separator}{f'{name}:***' if colon else '***'}@{tail}"


def _shown(name: str, value: Any) -> str:
    if name in SECRETS:
        return "set (a secret, not shown)"
    if name == "servers" and isinstance(value, tuple | list):
        if _holds_a_comma(value):
            return "set (not shown, there seems to be a password in it)"
        return repr(", ".join(without_password(str(server)) for server in value))
    return repr(value)


def _read(name: str, text: str) -> Any:
    if name == "servers":
        return tuple(server.strip() for server in text.split(",") if server.strip())
    if name in PATHS:
        return os.path.abspath(text.strip())
    if name in SECRETS:
        return text
    return read_flag(text) if _TYPES[name] is bool else _TYPES[name](text.strip())


def _holds_a_comma(servers: Sequence[object]) -> bool:
    """True if a password with a comma was taken for two servers: the second piece has its host, and no scheme."""
    return any("@" in str(server) and "://" not in str(server) for server in servers)


def _wrong_servers(servers: tuple[str, ...]) -> str:
    if _holds_a_comma(servers):
        return (
            "; it must be nats://host:port or tls://host:port, several separated by commas; a password with a comma "
            "cannot stand in it: set NATS_AUTH_USERNAME and NATS_AUTH_PASSWORD (username, password)"
        )
    reasons = [f"{without_password(server)!r} {why}" for server in servers if (why := _wrong_server(server))]
    if servers and not reasons:
        return ""
    rule = "it must be one or more of nats://host:port or tls://host:port, separated by commas"
    return f"; {rule}{': ' if reasons else ''}{', '.join(reasons)}"


def _wrong_server(server: str) -> str:
    try:
        url: SplitResult = urlsplit(server)
        host, port = url.hostname, url.port
    except ValueError:
        return "has no valid host and port"
    if url.scheme not in ("nats", "tls") or "://" not in server:
        return "does not begin with nats:// or tls://"
    if not host or any(character.isspace() or not character.isprintable() for character in server):
        return "has no valid host"
    if port == 0:
        return "has port 0"
    return "has more than a host and a port" if url.path.strip("/") or url.query or url.fragment else ""


def _with_port(server: str) -> str:
    server = server.rstrip("/")
    return server if urlsplit(server).port else f"{server.removesuffix(':')}:{DEFAULT_PORT}"


def _wrong_text(text: str) -> str:
    if text.isprintable() and text.strip():
        return ""
    return "; it must be printable text on one line (a line end or another control character is in it)"


def _wrong_seed(seed: str) -> str:
    rule = f"; it must be the seed of a user: SU and then letters A-Z and digits 2-7, {SEED_LENGTH} in all; "
    if not _SEED.fullmatch(seed):
        return f"{rule}it does not begin with SU or has other characters"
    if len(seed) != SEED_LENGTH:
        return f"{rule}it has {len(seed)}"
    raw = base64.b32decode(f"{seed}======")
    if binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        return f"{rule}its checksum is wrong, so there is a typing mistake in it"
    return ""


def _wrong_path(path: str) -> str:
    rule = "it must be the path of a file that can be read"
    if "\0" in path or not os.path.exists(path):
        return f"; {rule}; there is no such file"
    if not os.path.isfile(path):
        return f"; {rule}; it is no file"
    return "" if os.access(path, os.R_OK) else f"; {rule}; permission is denied"


def _wrong_prefix(prefix: str) -> str:
    return (
        ""
        if _PREFIX.fullmatch(prefix)
        else '; it must be letters, digits, "-" and "_" (one token of a subject)'
    )
