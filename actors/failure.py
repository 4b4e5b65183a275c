"""Exceptions to plain facts and back: what a caller learns of a handler that raised.

An exception travels as the name of its class, the arguments to build it, and those of its attributes that are plain
data. The caller builds the same class if it has imported it already; a name can therefore run nothing but the
constructor of an exception class that the caller itself uses. Everything else arrives as `RemoteError`.
"""

from __future__ import annotations

import traceback
from typing import Any, TypeGuard

import msgspec

from callboard.transports.errors import CallboardError

from .errors import BY_CODE, ActorError, RemoteError
from .objects import find_class
from .outcome import note
from .plain import is_plain
from .policy import Executed

NOTE = "--- remote traceback ---\n"

_OURS = ("__notes__", "actor", "incarnation", "executed")
"""Attributes that travel as facts of their own."""

SHORT_TEXT, SHORT_TRACEBACK = 4_000, 8_000
"""Characters that are kept of an error which is too large for a message."""


def to_facts(error: BaseException, actor: str, incarnation: int, *, ran: bool) -> dict[str, Any]:
    """Return the facts of ``error`` as plain data; ``ran`` says that the handler had begun. Never raises."""
    facts = _facts_of_actor_error(error, ran=ran) if isinstance(error, ActorError) else None
    if facts is None:
        facts = {
            "c": RemoteError.code,
            "k": _class_name(error),
            "w": _text(error),
            "t": _sendable("".join(traceback.format_exception(error))) if ran else "",
            "p": _arguments(error),
            "d": _attributes(error),
            "x": (Executed.YES if ran else Executed.NEVER).value,
        }
    if not facts.get("a"):
        facts["a"], facts["i"] = (
            (error.actor, error.incarnation) if _is_named(error) else (actor, incarnation)
        )
    elif facts["a"] == actor:
        facts["i"] = facts.get("i") or incarnation
    return facts


def _is_named(error: BaseException) -> TypeGuard[CallboardError]:
    return isinstance(error, CallboardError) and type(error.actor) is str and bool(error.actor)


def shortened(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what always fits a message: the class, the begin of the text, the end of the traceback."""
    text, trace = str(facts.get("w", "")), str(facts.get("t", ""))
    if len(text) > SHORT_TEXT:
        text = f"{text[:SHORT_TEXT]}... ({len(text):,} characters)"
    return facts | {"w": text, "t": trace[-SHORT_TRACEBACK:], "p": None, "d": None}


def from_facts(facts: Any) -> Exception:
    """Build the exception that `to_facts` described; never raises."""
    if not isinstance(facts, dict):
        why = f"the peer sent an error that cannot be read, a {type(facts).__name__}"
        return RemoteError(why, executed=Executed.MAYBE)
    code = facts.get("c")
    cls = BY_CODE.get(code, RemoteError) if type(code) is str else RemoteError
    own = _own_class(facts) if cls is RemoteError else _own_kind(cls, facts)
    if own is not None:
        return own
    try:
        return cls.from_facts(facts)
    except Exception as problem:
        why = f"the peer sent an error that cannot be read: {problem}"
        return RemoteError(why, executed=Executed.MAYBE)


def _facts_of_actor_error(error: ActorError, *, ran: bool) -> dict[str, Any] | None:
    try:
        facts = error.facts() | {"c": error.code}
        facts["w"] = _sendable(str(facts["w"]))
        if ran:  # what a nested call did not run says nothing of this handler
            facts["x"] = Executed.YES.value
        if type(error) is not BY_CODE.get(error.code):
            facts["s"] = _class_name(error)
        return facts if _is_sendable(facts) else None
    except Exception:  # of a class derived by a user
        return None


def _own_kind(cls: type[ActorError], facts: dict[str, Any]) -> Exception | None:
    """Build a class that a user has derived from one of ours, if it is known here and is built like its base."""
    try:
        kind = find_class(facts["s"]) if "s" in facts else cls
        return kind.from_facts(facts) if issubclass(kind, cls) else None
    except Exception:
        return None


def _own_class(facts: dict[str, Any]) -> Exception | None:
    """Build the class that was raised; None if it is not known here, or needs something else to be built."""
    if facts.get("p") is None:
        return None
    try:
        cls = find_class(str(facts["k"]))
        # No future takes a StopIteration, and a coroutine that raises one raises something else.
        if not issubclass(cls, Exception) or issubclass(cls, ActorError | StopIteration):
            return None
        error = cls(*facts["p"])
        if facts.get("d"):
            vars(error).update(facts["d"])
        if str(error) != facts["w"]:
            return None
        if facts.get("t"):
            error.add_note(f"{NOTE}{str(facts['t']).rstrip()}")
        note(error, str(facts.get("a", "")), int(facts.get("i", 0)), Executed(facts.get("x", "maybe")))
    except Exception:
        return None
    return error


def _class_name(error: BaseException) -> str:
    return f"{type(error).__module__}:{type(error).__qualname__}"


def _arguments(error: BaseException) -> list[Any] | None:
    try:
        reduced = error.__reduce__()
        arguments = reduced[1] if isinstance(reduced, tuple) and reduced[0] is type(error) else error.args
        wanted = list(arguments)
    except Exception:
        return None
    return wanted if _is_sendable(wanted) else None


def _attributes(error: BaseException) -> dict[str, Any]:
    attributes = getattr(error, "__dict__", {})
    ours = _OURS if isinstance(error, CallboardError) else ("__notes__",)
    return {name: v for name, v in attributes.items() if name not in ours and _is_sendable(v)}


def _is_sendable(value: Any) -> bool:
    """True for plain data that MessagePack takes, whatever its integers and texts."""
    try:
        return is_plain(value) and bool(msgspec.msgpack.encode(value))
    except (ValueError, OverflowError, RecursionError):
        return False


def _text(error: BaseException) -> str:
    try:
        return _sendable(str(error))
    except Exception as problem:
        return f"<its text cannot be had: {type(problem).__name__}>"


def _sendable(text: str) -> str:
    """Text that is valid Unicode; a lone surrogate, as in names of files, is spelt out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
