"""What became of a message that failed: told by the error, whatever its class.

callboard's own errors say it in their attributes. An exception of the application arrives as its own class and has no
place for that, so it is noted beside it; `outcome` reads both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from callboard.transports.errors import CallboardError

from .policy import Executed

_NOTE = "_callboard_outcome"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Which actor a failed message was for, and whether its handler ran."""

    executed: Executed
    actor: str = ""
    incarnation: int = 0
    items: int = 0
    """How many items of a stream had arrived."""

    @property
    def retry_is_safe(self) -> bool:
        """True if the handler certainly did not run."""
        return self.executed is Executed.NEVER


def outcome(error: BaseException) -> Outcome:
    """Return what is known of the message that ``error`` came from; `Executed.MAYBE` if it came from none.

    Of an error that passed through several actors, callboard's own name the innermost, others the one that was asked.
    """
    if isinstance(error, CallboardError):
        return Outcome(error.executed, error.actor, error.incarnation, getattr(error, "items", 0))
    noted = vars(error).get(_NOTE)
    return noted if isinstance(noted, Outcome) else Outcome(Executed.MAYBE)


def note_items(error: BaseException, items: int) -> None:
    """Note how many items of a stream came before ``error``, an exception of the application."""
    vars(error)[_NOTE] = replace(outcome(error), items=items)


def note(error: BaseException, actor: str, incarnation: int, executed: Executed) -> None:
    """Note it for `outcome`."""
    if isinstance(error, CallboardError):
        error.of(actor, incarnation, executed)
    else:
        vars(error)[_NOTE] = Outcome(executed, actor, incarnation)
