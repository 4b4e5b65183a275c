"""What a caller gets for each fault at each moment: the table that the tests and docs/errors.md are made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from callboard.actors.policy import Executed

NEVER, MAYBE, YES = Executed.NEVER, Executed.MAYBE, Executed.YES


class Where(Enum):
    """Where caller and actor are for a row to hold."""

    ANYWHERE = ""
    BETWEEN = "between processes"
    WITHIN = "within one process"
    KILLED = "between processes, by SIGKILL"
    """Shown with real processes in tests/integration, not by the suite."""


class Names(Enum):
    """What the error says of the actor."""

    BOTH = "actor, incarnation"
    ACTOR = "actor"
    """There is no incarnation: none was ever known, or a component was asked."""
    NOTHING = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One fault at one moment, and the one outcome that it has."""

    key: str
    """Name of the scenario that brings it about."""
    fault: str
    moment: str
    error: str
    """Name of the class that the caller gets."""
    executed: Executed
    where: Where = Where.ANYWHERE
    names: Names = Names.BOTH
    actor: str = "a.0"


GROUPS: dict[str, tuple[Row, ...]] = {
    "Nobody there": (
        Row("unknown_name", "the name is unknown", "", "ActorNotFound", NEVER, names=Names.ACTOR, actor="nobody"),
        Row("known_but_down", "the actor is known to be down", "", "ActorUnavailable", NEVER),
        Row("component_down", "every instance of a component is down", "", "ActorUnavailable", NEVER,
            names=Names.ACTOR, actor="a"),
        Row("never_back", "it is down", "until the deadline, with `on_down=WAIT`", "ActorUnavailable", NEVER),
        Row("no_route", "nobody answers at its address", "", "ActorUnavailable", NEVER, Where.BETWEEN),
        Row("own_node_closed", "the caller's own node is closed", "before the call", "ActorUnavailable", NEVER),
        Row("own_node_closes", "the caller's own node is closed", "while the handler runs", "ActorUnavailable", MAYBE,
            Where.BETWEEN),
        Row("own_node_closes_here", "the node of both is closed", "while the handler runs", "ActorStopped", YES,
            Where.WITHIN),
    ),
    "The link is cut": (
        Row("cut_backlog", "the link is cut", "before the message left: it waits for credit", "ActorUnavailable", NEVER,
            Where.BETWEEN),
        Row("cut_queued", "the link is cut", "after it left, while it is queued", "ActorUnavailable", MAYBE,
            Where.BETWEEN),
        Row("cut_running", "the link is cut", "while the handler runs", "ActorUnavailable", MAYBE, Where.BETWEEN),
        Row("cut_replied", "the link is cut", "after the handler returned", "ActorUnavailable", MAYBE, Where.BETWEEN),
        Row("cut_stream", "the link is cut", "after items of a stream", "ActorUnavailable", MAYBE, Where.BETWEEN),
    ),
    "The process is killed": (
        Row("killed_before", "its process is killed", "before the message left: it waits for credit",
            "ActorUnavailable", NEVER, Where.KILLED),
        Row("killed_queued", "its process is killed", "while it is queued", "ActorUnavailable", MAYBE, Where.KILLED),
        Row("killed_running", "its process is killed", "while the handler runs", "ActorUnavailable", MAYBE,
            Where.KILLED),
        Row("killed_replied", "its process is killed", "after the handler returned", "ActorUnavailable", MAYBE,
            Where.KILLED),
        Row("killed_stream", "its process is killed", "after items of a stream", "ActorUnavailable", MAYBE,
            Where.KILLED),
        Row("node_down", "its process is said to be down", "while the handler runs", "ActorUnavailable", MAYBE,
            Where.BETWEEN),
        Row("node_down_backlog", "its process is said to be down", "before the message left", "ActorUnavailable", NEVER,
            Where.BETWEEN),
    ),
    "The actor is stopped": (
        Row("stopped_before", "the actor was stopped", "before the message arrived", "ActorStopped", NEVER,
            Where.BETWEEN),
        Row("stopped_backlog", "the actor is stopped", "while the message waits for credit", "ActorStopped", NEVER,
            Where.BETWEEN),
        Row("stopped_queued", "the actor is stopped", "while the message is queued", "ActorStopped", NEVER),
        Row("stopped_running", "the actor is stopped", "while the handler runs, beyond the grace", "ActorStopped", YES),
        Row("stopping", "the actor is stopping", "when the message arrives", "ActorStopped", NEVER),
        Row("failed_queued", "a tell before it fails the actor", "while the message is queued", "ActorStopped", NEVER),
        Row("stopped_stream", "the actor is stopped", "after items of a stream", "ActorStopped", YES),
    ),
    "The mailbox is full": (
        Row("full_reject", "the mailbox is full", "`reject`", "MailboxFull", NEVER),
        Row("full_drop_newest", "the mailbox is full", "`drop-newest`", "MailboxFull", NEVER),
        Row("full_drop_oldest", "the mailbox is full", "`drop-oldest`: for the oldest", "MailboxFull", NEVER),
        Row("full_block", "the mailbox is full", "`block`: until the deadline", "DeadlineExceeded", NEVER),
        Row("full_fail", "the mailbox is full", "`fail`: for the new message", "MailboxFull", NEVER),
        Row("full_fail_queued", "the mailbox is full", "`fail`: for what is queued", "ActorStopped", NEVER),
        Row("full_tell", "as many wait as may", "at a tell", "MailboxFull", NEVER),
    ),
    "The deadline passes": (
        Row("late_sender", "the deadline passes", "at the sender, without room", "DeadlineExceeded", NEVER,
            Where.BETWEEN),
        Row("late_tell", "the deadline of a `tell_wait` passes", "at the sender, without room", "DeadlineExceeded",
            NEVER),
        Row("late_backlog", "the deadline passes", "while it waits for credit", "DeadlineExceeded", NEVER,
            Where.BETWEEN),
        Row("late_queued", "the deadline passes", "in the mailbox", "DeadlineExceeded", NEVER, Where.WITHIN),
        Row("late_queued_there", "the deadline passes", "in the mailbox, of which the caller cannot know",
            "DeadlineExceeded", MAYBE, Where.BETWEEN),
        Row("late_answered", "the deadline passes", "in the mailbox, as the actor says itself", "DeadlineExceeded",
            NEVER, Where.BETWEEN),
        Row("late_running", "the deadline passes", "in the handler", "DeadlineExceeded", MAYBE),
        Row("late_stream", "the deadline of a stream passes", "after its items", "DeadlineExceeded", MAYBE),
        Row("late_nested", "the deadline of an ask of the handler passes", "in the handler of that",
            "DeadlineExceeded", YES, actor="inner.0"),
        Row("cancelled", "the caller is cancelled", "", "CancelledError", MAYBE, names=Names.NOTHING),
    ),
    "A value cannot travel": (
        Row("encode_argument", "an argument cannot be encoded", "", "EncodeError", NEVER, Where.BETWEEN),
        Row("encode_result", "the result cannot be encoded", "", "EncodeError", YES, Where.BETWEEN),
        Row("encode_item", "an item cannot be encoded", "", "EncodeError", YES, Where.BETWEEN),
        Row("encode_error", "the arguments of an exception cannot be encoded", "", "RemoteError", YES, Where.BETWEEN),
        Row("large_argument", "an argument is too large", "", "TooLarge", NEVER, Where.BETWEEN),
        Row("large_argument_late", "an argument is too large", "for the peer, which says so later", "TooLarge", NEVER,
            Where.BETWEEN),
        Row("large_result", "the result is too large", "", "TooLarge", YES, Where.BETWEEN),
        Row("large_item", "an item is too large", "", "TooLarge", YES, Where.BETWEEN),
        Row("large_error", "an exception is too large", "", "RemoteError", YES, Where.BETWEEN),
        Row("decode_argument", "an argument cannot be decoded", "at the actor", "BadArguments", NEVER, Where.BETWEEN),
        Row("decode_result", "the result cannot be decoded", "at the caller", "DecodeError", YES, Where.BETWEEN),
        Row("decode_item", "an item cannot be decoded", "at the caller", "DecodeError", YES, Where.BETWEEN),
        Row("decode_error", "an error cannot be read", "at the caller", "DecodeError", MAYBE, Where.BETWEEN),
    ),
    "The call is wrong": (
        Row("wrong_arguments", "the arguments do not fit", "", "BadArguments", NEVER),
        Row("unknown_method", "there is no such method", "", "UnknownMethod", NEVER),
        Row("ask_of_stream", "a stream is asked", "", "UnknownMethod", NEVER),
        Row("stream_of_ask", "an ask is streamed", "", "UnknownMethod", NEVER),
        Row("self_ask", "a sequential actor asks itself", "within its handler", "CallCycle", NEVER),
        Row("cycle", "actors ask each other in a cycle", "within the last handler", "CallCycle", NEVER),
        Row("cycle_reported", "the same", "as it reaches the first caller", "CallCycle", YES),
    ),
    "The handler raises": (
        Row("raises_known", "an exception that the caller has, too", "", "ValueError", YES),
        Row("raises_unknown", "an exception that it has not", "", "RemoteError", YES),
        Row("raises_base", "what is no `Exception`", "", "RemoteError", YES),
        Row("raises_cancelled", "`CancelledError`, of its own", "", "RemoteError", YES),
        Row("raises_ours", "one of callboard's errors", "`Overloaded`, say", "Overloaded", YES),
        Row("raises_other_ours", "one of callboard's errors", "`ConfigError`, say", "ConfigError", YES),
        Row("raises_in_stream", "an exception", "after items of a stream", "ValueError", YES),
        Row("nested", "the error of its own ask", "which never ran", "ActorNotFound", YES, names=Names.ACTOR,
            actor="nobody"),
        Row("nested_value", "the exception of whom it asked", "", "ValueError", YES, actor="outer.0"),
    ),
}  # fmt: skip

ROWS = [row for rows in GROUPS.values() for row in rows]


def rows(*where: Where) -> list[Row]:
    """The rows that hold there."""
    return [row for row in ROWS if row.where in where]
