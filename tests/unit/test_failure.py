"""Exceptions to facts and back."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.errors import (
    BY_CODE,
    ActorError,
    ActorNotFound,
    ActorUnavailable,
    DeadlineExceeded,
    EncodeError,
    MailboxFull,
    Overloaded,
    RemoteError,
    StartFailed,
)
from callboard.actors.failure import from_facts, shortened, to_facts
from callboard.actors.policy import Executed
from callboard.transports.errors import Broken, TooLarge


class Own(Exception):
    """Of an application."""


class Busy(Overloaded):
    """Derived from one of ours, and built like it."""


class Demanding(MailboxFull):
    """Derived from one of ours, but built otherwise."""

    def __init__(self, *, colour):
        super().__init__(f"colour {colour}")


class Untold(Exception):
    """Has no text."""

    def __str__(self):
        raise RuntimeError("no text")


class Unreduced(Exception):
    """Cannot be taken apart."""

    def __reduce__(self):
        raise RuntimeError("no parts")


class Misbehaving(ActorError):
    """Breaks the rules of its base."""

    def facts(self):
        raise RuntimeError("no facts")


def there_and_back(error, *, ran=True):
    facts = msgspec.msgpack.decode(msgspec.msgpack.encode(to_facts(error, "a.0", 2, ran=ran)))
    return from_facts(facts)


def raised(error):
    """The same error, with a traceback."""
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text"),
        ValueError(),
        KeyError("k"),
        OSError(2, "no such file"),
        Own("a", 1),
        EncodeError("arguments[0]", "it does not travel"),
        TooLarge(5, 4, "limit"),
        Broken("tcp://x", "it died"),
        json.JSONDecodeError("bad", "doc", 1),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "why"),
        StopAsyncIteration(1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_comes_back_as_its_own_class(error):
    back = there_and_back(raised(error))
    assert (type(back), str(back), back.args) == (type(error), str(error), error.args)
    assert "--- remote traceback ---" in back.__notes__[0]
    assert "in raised" in back.__notes__[0]


@pytest.mark.parametrize("cls", [cls for cls in BY_CODE.values() if cls not in (RemoteError, StartFailed)])
def test_our_own_errors_come_back_with_all_their_facts(cls):
    error = cls("why", actor="b.1", incarnation=3, executed=Executed.MAYBE, items=5)
    back = there_and_back(error, ran=False)
    assert type(back) is cls
    assert back.facts() == error.facts()
    assert str(back) == str(error)


def test_a_start_that_failed_comes_back_with_its_traceback():
    back = there_and_back(StartFailed("why", remote_traceback="trace", actor="b.1"), ran=False)
    assert (type(back), back.remote_traceback, back.actor) == (StartFailed, "trace", "b.1")


def test_what_a_nested_call_did_not_run_says_nothing_of_the_handler():
    nested = ActorUnavailable("it is down", actor="b.1", executed=Executed.NEVER)
    assert there_and_back(nested, ran=True).executed is Executed.YES
    assert there_and_back(nested, ran=False).executed is Executed.NEVER
    assert there_and_back(nested).actor == "b.1"
    assert there_and_back(DeadlineExceeded("late")).actor == "a.0"


def test_a_class_derived_from_ours_comes_back_as_itself_or_as_its_base():
    back = there_and_back(Busy("later", executed=Executed.MAYBE), ran=False)
    assert (type(back), back.why, back.executed, back.actor) == (Busy, "later", Executed.MAYBE, "a.0")
    back = there_and_back(Demanding(colour="red"), ran=False)
    assert (type(back), back.why) == (MailboxFull, "colour red")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError((1, 2)), "builtins:ValueError", "(1, 2)"),
        (ValueError(object), "builtins:ValueError", "<class 'object'>"),
        (ValueError(2**70), "builtins:ValueError", str(2**70)),
        (ValueError("\udcff"), "builtins:ValueError", "\\udcff"),
        (ExceptionGroup("several", [ValueError(1)]), "builtins:ExceptionGroup", "several (1 sub-exception)"),
        (StopIteration(1), "builtins:StopIteration", "1"),
        (KeyboardInterrupt(), "builtins:KeyboardInterrupt", ""),
        (Untold(), f"{__name__}:Untold", "<its text cannot be had: RuntimeError>"),
        (Misbehaving("why"), f"{__name__}:Misbehaving", "why (executed=never)"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, BaseException) else "",
)
def test_what_cannot_be_built_is_a_remote_error_with_its_name_and_text(error, kind, text):
    back = there_and_back(error)
    assert (type(back), back.kind, back.why) == (RemoteError, kind, text)
    assert (back.actor, back.incarnation, back.executed) == ("a.0", 2, Executed.YES)
    assert type(error).__name__ in back.remote_traceback


def test_an_exception_that_cannot_be_taken_apart_is_a_remote_error():
    assert type(there_and_back(Unreduced("x"))) is RemoteError


def test_attributes_that_are_plain_data_come_along():
    error = Own("a")
    error.code, error.handle = 5, object()
    error.add_note("a note")
    back = there_and_back(raised(error))
    assert back.code == 5
    assert not hasattr(back, "handle")


def test_a_handler_that_did_not_run_has_no_traceback():
    facts = to_facts(raised(ValueError("x")), "a.0", 1, ran=False)
    assert (facts["t"], facts["x"]) == ("", "never")


def test_an_error_too_large_is_shortened_to_what_always_fits():
    facts = shortened(to_facts(raised(ValueError("\U0001f600" * 10**6)), "a.0", 1, ran=True))
    assert len(msgspec.msgpack.encode(facts)) < 60_000
    back = from_facts(facts)
    assert (type(back), back.kind) == (RemoteError, "builtins:ValueError")
    assert "(1,000,000 characters)" in back.why


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    [
        *("os:system", "builtins:exit", "builtins:ValueError", "builtins:KeyboardInterrupt", "builtins:int"),
        *("subprocess:Popen", "builtins:StopIteration", "callboard:System", "x", ":"),
        *(f"{__name__}:Own", f"{__name__}:Demanding"),
    ]
)
any_facts = st.fixed_dictionaries(
    {},
    optional={
        "c": st.sampled_from([*BY_CODE, "?"]) | plain,
        "k": names | plain,
        "s": names | plain,
        "p": st.lists(plain, max_size=3) | plain,
        "x": st.sampled_from(["never", "yes"]) | plain,
        **dict.fromkeys("wtdain", plain),
    },
)


@given(any_facts | plain)
def test_facts_made_to_hurt_become_an_exception_and_nothing_else(facts):
    error = from_facts(facts)
    assert isinstance(error, Exception)
    assert not isinstance(error, StopIteration)
    assert type(error).__module__ in (__name__, "builtins") or isinstance(error, ActorError)


def test_an_unknown_name_suggests_what_was_meant():
    error = ActorNotFound.named("wroker", ["worker", "router"])
    assert (
        str(error)
        == 'wroker: no such actor; actors are: router, worker; did you mean "worker"? (executed=never)'
    )
    many = ActorNotFound.named("x", [f"worker.{n}" for n in range(40)])
    assert str(many).count("worker") == 12
