"""What an error says of the message that it came from."""

import pickle

import pytest

from callboard.actors.errors import ActorUnavailable, DecodeError, EncodeError
from callboard.actors.failure import from_facts, to_facts
from callboard.actors.outcome import Outcome, note, outcome
from callboard.actors.policy import Executed
from callboard.transports.errors import CallboardError, ConfigError, NotStored, TooLarge


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text"),
        EncodeError("the result", "it does not travel"),
        DecodeError("malformed"),
        TooLarge(10, 5, "limit"),
        ConfigError(["one", "two"]),
        ActorUnavailable("it is down"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_outcome_is_read_from_any_error_of_a_message(error):
    note(error, "a.0", 3, Executed.NEVER)
    assert outcome(error) == Outcome(Executed.NEVER, "a.0", 3)
    assert outcome(error).retry_is_safe
    there = from_facts(to_facts(error, "b.0", 4, ran=True))
    assert type(there) is type(error)
    assert outcome(there).executed is Executed.YES
    assert not outcome(there).retry_is_safe
    # Ours name the innermost actor; of others only the one that was asked is known.
    assert outcome(there).actor == ("a.0" if isinstance(error, CallboardError) else "b.0")
    if isinstance(error, CallboardError):
        unpickled = pickle.loads(pickle.dumps(error))
        assert (type(unpickled), str(unpickled), outcome(unpickled)) == (
            type(error),
            str(error),
            outcome(error),
        )


def test_an_error_of_no_message_may_have_run():
    assert outcome(ValueError()) == Outcome(Executed.MAYBE)
    assert outcome(KeyboardInterrupt()) == Outcome(Executed.MAYBE)
    assert outcome(ConfigError("wrong")).retry_is_safe
    assert outcome(NotStored("a", "the store is away", maybe=True)).executed is Executed.MAYBE


def test_the_text_of_an_error_follows_what_is_noted():
    error = ActorUnavailable("it is down").of("a.0", 2, Executed.MAYBE)
    assert str(error) == "a.0: it is down (executed=maybe)"
    assert error.of("b.0", 1, Executed.YES).actor == "a.0"
