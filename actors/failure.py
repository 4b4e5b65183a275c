"""Exceptions to plain facts and back: what a caller learns of a handler that raised.

An exception travels as the name of its class and the arguments to build it. The caller builds the same class
if it has imported it already; a name can therefore run nothing but the constructor of an exception class that
the caller itself uses. Everything else arrives as `RemoteError`.
"""

from __future__ import annotations

import traceback
from typing import Any

from .codec import is_plain
from .errors import BY_CODE, ActorError, DecodeError, RemoteError
from .objects import find_class
from .policy import Executed

NOTE = "--- remote traceback ---\n"


def to_facts(error: BaseException, actor: str, incarnation: int, *, ran: bool) -> dict[str, Any]:
    """Return the facts of ``error``; ``ran`` says that the handler had begun."""
    if isinstance(error, ActorError):
        facts = error.facts()
        if ran:  # what a nested call did not run says nothing of this handler
            facts["x"] = Executed.YES.value
        facts["a"] = facts["a"] or actor
        facts["i"] = facts["i"] or incarnation
        return facts | {"c": error.code}
    kind = type(error)
    return {
        "c": RemoteError.code,
        "k": f"{kind.__module__}:{kind.__qualname__}",
        "w": _text(error),
        "t": "".join(traceback.format_exception(error)) if ran else "",
        "p": _arguments(error),
        "a": actor,
        "i": incarnation,
        "x": (Executed.YES if ran else Executed.NEVER).value,
    }


def from_facts(facts: Any) -> Exception:
    """Build the exception that `to_facts` described; never raises."""
    if not isinstance(facts, dict):
        return RemoteError(f"the peer sent an error that cannot be read: {facts!r}")
    try:
        cls = BY_CODE.get(str(facts.get("c")), RemoteError)
        if cls is RemoteError and facts.get("p") is not None:
            own = _own_class(facts)
            if own is not None:
                return own
        error = cls.from_facts(facts)
    except (TypeError, ValueError, AttributeError) as problem:
        return RemoteError(f"the peer sent an error that cannot be read: {problem}")
    return error


def _own_class(facts: dict[str, Any]) -> Exception | None:
    try:
        cls = find_class(str(facts["k"]))
        if not issubclass(cls, Exception) or issubclass(cls, ActorError):
            return None
        error = cls(*facts["p"])
        same = str(error) == facts["w"]
    except DecodeError:
        return None
    except Exception:  # a constructor that wants something else: the facts remain
        return None
    if not same:
        return None
    if facts.get("t"):
        error.add_note(f"{NOTE}{str(facts['t']).rstrip()}")
    return error


def _arguments(error: BaseException) -> list[Any] | None:
    try:
        reduced = error.__reduce__()
        arguments = reduced[1] if isinstance(reduced, tuple) and reduced[0] is type(error) else error.args
        wanted = list(arguments)
    except Exception:
        return None
    return wanted if is_plain(wanted) else None


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:
        return f"<its text cannot be had: {problem!r}>"
