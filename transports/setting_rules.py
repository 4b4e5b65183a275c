"""What settings of every kind share: a problem as data, and the test whether a value fits its field. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

LONGEST_S = 1_000_000.0
"""zmq takes milliseconds as an int."""

Ranges = Mapping[str, tuple[float, float]]

_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    tuple: "a list of texts",
}
_FLAGS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with the values of some fields."""

    fields: tuple[str, ...]
    """Those that take part in it."""
    text: str


def allowed(name: str, kind: type, ranges: Ranges) -> str:
    """What a field of this type takes, in words."""
    if name in ranges:
        return f"{_KINDS[kind]} between {ranges[name][0]:,} and {ranges[name][1]:,}"
    return _KINDS[kind]


def fits(name: str, kind: type, value: Any, ranges: Ranges) -> bool:
    """True if the value is of the type of its field and in its range."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
        return False
    least, most = ranges.get(name, (-inf, inf))
    return not isinstance(value, int | float) or least <= value <= most


def read_flag(text: str) -> bool:
    """Read true, false and what else people write in an environment; raises ValueError.

    >>> read_flag("Yes"), read_flag("0")
    (True, False)
    """
    try:
        return _FLAGS[text.strip().lower()]
    except KeyError:
        raise ValueError(text) from None


def named(causes: list[str], problem: Problem) -> str:
    """The text of a problem that environment variables have caused, beginning with their names."""
    return f"{' and '.join(causes)}: {problem.text}" if causes else problem.text
