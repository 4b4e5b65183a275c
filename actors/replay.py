"""Has a durable component handle its stored messages again.

They are read in the order in which they were stored, and asked one after the other, so that the component never has
more than it handles. Nothing of that is acknowledged: deliveries go on as if there were no replay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from callboard.transports.errors import CallboardError

from .codec import Codec, Encoded
from .durable import Durables, decode
from .errors import ActorNotFound, BadArguments
from .policy import OnDown
from .ref import Ref
from .target import Target

MOST_ERRORS = 20

log = logging.getLogger("callboard.actors")


class Host(Protocol):
    """What a replay needs from its node."""

    id: str
    codec: Codec
    durables: Durables

    def ref(self, name: str) -> Ref[Any]:
        """Return a reference to an actor."""

    def target(self, name: str) -> Target:
        """What a name stands for."""


@dataclass(slots=True)
class Replay:
    """How far a replay is, and how it went."""

    component: str
    first: int
    """Sequence that it began at."""
    last: int
    """Last sequence of the log when it began: it ends there."""
    at: int = 0
    """Sequence of the message that was handled last."""
    ok: int = 0
    failed: int = 0
    errors: list[tuple[int, str]] = field(default_factory=list)
    """Sequence and error of the first messages that failed."""


async def replay(
    node: Host,
    component: str,
    *,
    from_sequence: int | None = None,
    since: datetime | float | None = None,
    dead: bool = False,
    deadline_s: float = 60.0,
    on_progress: Callable[[Replay], None] | None = None,
) -> Replay:
    """Replay what is stored for ``component`` now, from a sequence, from a time (seconds since 1970), or all of it.

    What was for one instance goes to that one, the rest to whichever is free. ``dead`` replays dead letters instead.
    A handler that raises is counted and the next message follows; so does one that takes longer than ``deadline_s``, or
    whose actor is not up within it. ``on_progress`` is called after each message. Raises `ActorNotFound`,
    `BadArguments` and `TransportError`.
    """
    if component not in node.durables.policies:
        known = ", ".join(node.durables.policies) or "none"
        raise ActorNotFound(f"no durable component; durable are: {known}", actor=component)
    if from_sequence is not None and since is not None:
        raise BadArguments("from_sequence and since exclude each other", actor=component)
    store = node.durables.store
    first, last = await store.bounds(component)
    if since is not None:
        first = await store.sequence_at(
            component, since.timestamp() if isinstance(since, datetime) else since
        )
    elif from_sequence is not None:
        first = max(first, from_sequence)
    report = Replay(component, first, last)
    async for message in store.history(component, first, last, dead=dead):
        name = component if message.instance is None else f"{component}.{message.instance}"
        try:
            await _handle_again(node, name, message.payload, deadline_s)
        except Exception as error:  # of the handler, or of the way to it
            report.failed += 1
            if len(report.errors) < MOST_ERRORS:
                report.errors.append((message.sequence, f"{type(error).__name__}: {error}"))
            level = logging.INFO if isinstance(error, CallboardError) else logging.WARNING
            log.log(level, "replay of message %d to %s failed: %s", message.sequence, name, error)
        else:
            report.ok += 1
        report.at = message.sequence
        if on_progress is not None:
            on_progress(report)
    return report


async def _handle_again(node: Host, name: str, payload: bytes, deadline_s: float) -> None:
    tell = decode(payload)
    ref = node.ref(name).options(deadline_s=deadline_s, on_down=OnDown.WAIT)
    if any(location.node == node.id for location in node.target(name).locations()):
        value = node.codec.decode(tell.body, tell.buffers)
        args, kwargs = (value, {}) if type(value) is list else (value["a"], value["k"])
        await ref.ask(tell.method, *args, **kwargs)
    else:  # as it is: this process may have none of the classes in it
        await ref.ask(tell.method, Encoded(tell.body, tell.buffers))
