"""Mistakes that somebody could make in the runtime, each made by a patch; the machines must find every one of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from callboard.actors.cell import Cell
from callboard.actors.envelope import CANCEL, TELL, split
from callboard.actors.local import LocalOrigin, LocalRoute
from callboard.actors.mailbox import Mailbox
from callboard.actors.node import Node
from callboard.actors.origin import Inlet, Origin
from callboard.actors.outbox import Outbox
from callboard.actors.outlet import Outlet
from callboard.actors.peer import Peer
from callboard.actors.policy import Executed
from callboard.actors.producer import _Credit
from callboard.actors.stream import Reader
from callboard.actors.watches import Watches, Watching

from .machine import Ends, Faults, Talk

Mutation = Callable[[], AbstractContextManager[object]]


def _instead(owner: type, name: str, by: type[Talk] = Talk) -> Callable[[Callable[..., Any]], Mutation]:
    """Replace a method by a function that gets the method as its first argument; ``by`` is to find it."""

    def mutation(function: Callable[..., Any]) -> Mutation:
        original = getattr(owner, name)

        def mutant(self: Any, *args: Any, **kwargs: Any) -> Any:
            return function(original, self, *args, **kwargs)

        made: Mutation = lambda: patch.object(owner, name, mutant)  # noqa: E731
        MUTATIONS[function.__name__] = made, by
        return made

    return mutation


MUTATIONS: dict[str, tuple[Mutation, type[Talk]]] = {}
"""By what goes wrong: the patch, and the machine that finds it."""

NAMES: dict[tuple[str, int], str] = {}
"""Actors that have been called, by node and number."""


@_instead(Origin, "reply")
def an_answer_is_dropped(original, self, letter, value):
    if letter.id % 5:
        original(self, letter, value)
    else:
        self.calls.pop(letter.id, None)


@_instead(LocalOrigin, "reply")
def an_answer_within_the_process_goes_to_nobody(original, self, letter, value):
    if letter.id % 5:
        original(self, letter, value)
    else:
        self.calls.pop(letter.id, None)


@_instead(LocalOrigin, "reply")
def an_answer_within_the_process_leaves_its_letter(original, self, letter, value):
    calls = dict(self.calls)
    original(self, letter, value)
    self.calls.update(calls)


@_instead(Cell, "deliver")
def a_tell_runs_twice(original, self, letter):
    original(self, letter)
    if letter.kind == TELL:
        original(self, copy.copy(letter))


@_instead(Cell, "deliver")
def a_message_overtakes_those_that_wait(original, self, letter):
    original(self, letter)
    if len(self.mailbox.queue) > 1:
        self.mailbox.queue.rotate(1)


@_instead(Cell, "cancel")
def credit_of_a_cancelled_message_is_kept(original, self, letter):
    inlet, letter.inlet = letter.inlet, (letter.inlet if letter.task is not None else None)
    original(self, letter)
    letter.inlet = inlet


@_instead(Inlet, "taken")
def bytes_of_credit_are_kept(original, self, size):
    original(self, size - 1)


@_instead(Outlet, "forget_waiting")
def a_place_in_the_backlog_is_kept(original, self, call_id):
    found = original(self, call_id)
    self._reserved += found
    return found


@_instead(Origin, "_inlet", Ends)
def what_was_meant_for_the_dead_reaches_the_next(original, self, envelope, buffers):
    cells = self.host.cells
    if envelope.target in cells:
        NAMES[self.host.id, envelope.target] = cells[envelope.target].location.name
        return original(self, envelope, buffers)
    for cell in cells.values():
        if cell.location.name == NAMES.get((self.host.id, envelope.target)):
            return Inlet(self, cell)
    return original(self, envelope, buffers)


@_instead(Origin, "received")
def a_cancellation_is_lost(original, self, frames):
    if not any(envelope.kind == CANCEL for envelope in split(frames[0])):
        original(self, frames)


@_instead(LocalRoute, "cancel")
def a_cancellation_within_the_process_is_lost(original, self, call_id):
    host = self.origin.host
    host.pending.calls.pop(call_id, None)
    host.readers.pop(call_id, None)
    self.origin.calls.pop(call_id, None)


@_instead(Peer, "_unavailable", Faults)
def what_may_have_run_is_called_never(original, self, call_id, why, executed):
    original(self, call_id, why, Executed.NEVER)


@_instead(Cell, "refuse")
def what_never_ran_is_called_yes(original, self, letter, error):
    letter.origin.fail(letter, error, ran=True)


@_instead(Cell, "deliver", Ends)
def a_mailbox_has_no_bounds(original, self, letter):
    self.mailbox.limit = 1000
    original(self, letter)


@_instead(Mailbox, "drain", Ends)
def what_waits_in_a_stopped_mailbox_is_forgotten(original, self):
    original(self)
    return []


@_instead(Peer, "actor_down", Ends)
def what_waits_for_the_dead_is_forgotten(original, self, location, why):
    self.outlets.pop(location.number, None)


@_instead(Reader, "_give_back")
def a_reader_gives_nothing_back(original, self):
    pass


@_instead(_Credit, "wait")
def a_producer_does_not_wait(original, self):
    return _at_once()


async def _at_once() -> None:
    pass


@_instead(Reader, "feed")
def a_record_of_a_stream_is_given_twice(original, self, items, size):
    original(self, items, size)
    original(self, list(items), size)


@_instead(Outbox, "_emit")
def messages_of_one_tick_leave_in_reverse(original, self):
    self._parts.reverse()
    original(self)


@_instead(Node, "remove_location", Ends)
def the_news_of_a_stop_is_lost(original, self, name, incarnation, reason):
    pass


@_instead(Watches, "left_directory", Ends)
def a_watcher_hears_nothing(original, self, location, fate):
    pass


@_instead(Watches, "forget")
def a_watch_that_was_cancelled_stays(original, self, watching):
    pass


@_instead(Watching, "tell", Ends)
def a_watcher_hears_twice(original, self, fate):
    told = self._told
    original(self, fate)
    self._told = told
    original(self, fate)
