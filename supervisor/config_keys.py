"""Every key that a config file may hold: what it takes, and what for; for the loader and the schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from callboard.actors.policy import MailboxPolicy, Overflow
from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import did_you_mean
from callboard.transports.events.names import known_event_planes

from .spec import Limits, RestartKind, RestartPolicy, Strategy

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def not_a_name(value: str) -> str:
    """Return what is wrong with a name, to be put behind what takes it; empty if nothing is.

    >>> not_a_name("a-1"), not_a_name("../b")
    ('', 'takes a name, not "../b": letters, digits, "-" and "_" after a letter')
    """
    return (
        ""
        if NAME.fullmatch(value)
        else f'takes a name, not "{value}": letters, digits, "-" and "_" after a letter'
    )


CLASS_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
UNITS = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)")


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what it takes in words, how its value is read, and its JSON Schema.

    ``read`` raises `ValueError`; its text, if any, says more than "takes ..., not ...".
    """

    takes: str
    read: Callable[[Any], Any]
    schema: Mapping[str, Any]
    doc: str = ""

    def says(self, doc: str) -> Key:
        """The same key with a description."""
        return Key(self.takes, self.read, self.schema, doc)


def _typed(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError
    return value


def text(takes: str = "a string", pattern: re.Pattern[str] | None = None) -> Key:
    """A string, of a certain form if ``pattern`` says so."""

    def read(value: Any) -> str:
        result: str = _typed(str, value)
        if pattern is not None and not pattern.fullmatch(result):
            raise ValueError
        return result

    form = {} if pattern is None else {"pattern": f"^{pattern.pattern}$"}
    return Key(takes, read, {"type": "string", **form})


def secret() -> Key:
    """A string that no message shows."""

    def read(value: Any) -> str:
        if type(value) is not str:
            raise ValueError("takes a string (a secret, not shown)")
        return value

    return Key("a string", read, {"type": "string"})


def choice(words: list[str], doc: str = "") -> Key:
    """One of some words."""

    def read(value: Any) -> str:
        if value not in words:
            near = did_you_mean(value, words) if isinstance(value, str) else ""
            raise ValueError(f"takes one of {', '.join(words)}, not {show(value)}{near}")
        return str(value)

    return Key(f"one of {', '.join(words)}", read, {"enum": words}, doc)


def integer(minimum: int) -> Key:
    """A whole number."""

    def read(value: Any) -> int:
        result: int = _typed(int, value)
        if result < minimum:
            raise ValueError
        return result

    return Key(f"an integer of at least {minimum}", read, {"type": "integer", "minimum": minimum})


def seconds(*, zero: bool = False) -> Key:
    """A duration."""

    def read(value: Any) -> float:
        if (
            type(value) not in (int, float)
            or not (value > 0 or (zero and value == 0))
            or value == float("inf")
        ):
            raise ValueError
        return float(value)

    limit = {"minimum": 0} if zero else {"exclusiveMinimum": 0}
    return Key(
        f"a number of seconds {'of at least' if zero else 'above'} 0", read, {"type": "number", **limit}
    )


def size(minimum: int = 1) -> Key:
    """A number of bytes, plain or with a unit."""

    def read(value: Any) -> int:
        if isinstance(value, str):
            match = _SIZE.fullmatch(value.strip())
            if match is None or match[2].lower() not in UNITS:
                raise ValueError
            value = int(float(match[1]) * UNITS[match[2].lower()])
        result: int = _typed(int, value)
        if result < minimum:
            raise ValueError
        return result

    schema = {
        "anyOf": [{"type": "integer", "minimum": minimum}, {"type": "string", "pattern": _SIZE.pattern}]
    }
    return Key('a number of bytes, such as 65536 or "64MiB"', read, schema)


def _read_names(value: Any) -> list[str]:
    if type(value) is not list or not all(type(item) is str for item in value):
        raise ValueError
    return value


def _read_one_or_more(value: Any) -> tuple[str, ...]:
    if type(value) is str:
        value = [item.strip() for item in value.split(",") if item.strip()]
    return tuple(_read_names(value))


def _read_wait(value: Any) -> tuple[float, float]:
    numbers = [value, value] if type(value) in (int, float) else value
    if type(numbers) is not list or len(numbers) != 2 or not all(type(n) in (int, float) for n in numbers):
        raise ValueError
    shortest, longest = map(float, numbers)
    if not 0 <= shortest <= longest < float("inf"):
        raise ValueError
    return shortest, longest


def _read_waits(value: Any) -> tuple[float, ...]:
    numbers = [value] if type(value) in (int, float) else value
    if type(numbers) is not list or not all(
        type(n) in (int, float) and 0 <= n < float("inf") for n in numbers
    ):
        raise ValueError
    return tuple(map(float, numbers))


def _read_environment(value: Any) -> dict[str, str]:
    if type(value) is not dict:
        raise ValueError
    for name, item in value.items():
        if type(item) not in (str, int, float) or not name or "=" in name or "\0" in f"{name}{item}":
            raise ValueError(f"takes a string or a number for {name}, not {show(item)}")
    return {name: str(item) for name, item in value.items()}


def _read_arguments(value: Any) -> Any:
    if type(value) not in (dict, list):
        raise ValueError
    return value


def _read_flag(value: Any) -> bool:
    result: bool = _typed(bool, value)
    return result


def show(value: Any) -> str:
    """A value as TOML would have it, shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


FLAG = Key("true or false", _read_flag, {"type": "boolean"})
NAMES = Key(
    "a string, or an array of strings",
    _read_one_or_more,
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
)
NUMBER_LIST = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2, "maxItems": 2}

TOP: dict[str, Key] = {
    "namespace": text("a name", NAME).says("Keeps systems on one machine or one broker apart."),
    "request_plane": text("the name of a plane").says("How messages travel between processes."),
    "event_plane": choice(list(known_event_planes())).says("How events travel."),
}
ACTOR: dict[str, Key] = {
    "class": text('a class as "module:Class"', CLASS_PATH).says("The actor class."),
    "args": Key(
        "a table of arguments by name, or an array of arguments",
        _read_arguments,
        {"anyOf": [{"type": "object"}, {"type": "array"}]},
        'Constructor arguments; { ref = "name" } anywhere in them is a reference to an actor.',
    ),
    "replicas": integer(1).says("How many instances run."),
}
MAILBOX: dict[str, Key] = {
    "messages": integer(1).says("How many messages may wait."),
    "bytes": size().says("How many bytes of messages may wait."),
    "overflow": choice([o.value for o in Overflow], "What happens to one more."),
}
RESTART: dict[str, Key] = {
    "policy": choice([k.value for k in RestartKind], "After which end it is restarted."),
    "max_restarts": integer(0).says("How many restarts there may be within the window."),
    "window_s": seconds().says("How long a restart counts."),
    "backoff_s": Key(
        "the shortest and the longest wait in seconds, such as [0.1, 5]",
        _read_wait,
        {"anyOf": [{"type": "number", "minimum": 0}, NUMBER_LIST]},
        "Wait before a restart; it doubles from the shortest to the longest.",
    ),
}
DURABLE: dict[str, Key] = {
    "max_age_s": seconds().says("How long messages are kept, handled or not."),
    "max_bytes": size(0).says(
        "How much is kept; the oldest handled messages make room. 0: no limit of its own."
    ),
    "max_deliver": integer(1).says("After so many deliveries that did not end well a message is dead."),
    "ack_wait_s": seconds().says("Silence after which a message is delivered again."),
    "backoff_s": Key(
        "an array of waits in seconds, such as [1, 5, 30]",
        _read_waits,
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "array", "items": {"type": "number", "minimum": 0}},
            ]
        },
        "Wait after the first, second, ... exception of its handler; the last one repeats.",
    ),
    "duplicate_window_s": seconds().says("Within this time two messages of one id are stored once."),
}
PROCESS: dict[str, Key] = {
    "actors": Key(
        "an array of names of actors",
        _read_names,
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "The actors that share the process.",
    ),
    "count": integer(1).says("How many such processes run; instances are dealt to them in turn."),
    "env": Key(
        "a table of environment variables",
        _read_environment,
        {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
        "Environment; {index} and {namespace} are filled in.",
    ),
}
SUPERVISOR: dict[str, Key] = {
    "strategy": choice([s.value for s in Strategy], "What else restarts when something failed."),
    **{limit.name: seconds().says("A limit in seconds.") for limit in fields(Limits)},
}
DEFAULTS = {"mailbox": MailboxPolicy(), "restart": RestartPolicy(), "durable": DurablePolicy()}


def network_keys() -> dict[str, Key]:
    """The keys of ``[network]``: the fields of `NetworkSettings`, whose own check judges the values."""
    from callboard.transports.settings import NetworkSettings

    others = ("request_plane", "event_plane", "nats")
    return {entry.name: _key_of(entry) for entry in fields(NetworkSettings) if entry.name not in others}


def nats_keys() -> dict[str, Key]:
    """The keys of ``[network.nats]``: the fields of `NatsSettings`; the values of secrets are never shown."""
    from callboard.transports.nats_settings import SECRETS, NatsSettings

    return {
        entry.name: secret() if entry.name in SECRETS else _key_of(entry) for entry in fields(NatsSettings)
    }


def _key_of(entry: Field[Any]) -> Key:
    default = entry.default
    if isinstance(default, bool):
        return FLAG
    if isinstance(default, tuple):
        return NAMES
    if entry.name.endswith("_bytes"):
        return size(0)
    if isinstance(default, int):
        return integer(0)
    return seconds(zero=True) if isinstance(default, float) else text()
