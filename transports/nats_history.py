"""The log of a component as it is read again: its messages by sequence or time, and its dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import nats.errors
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

from .durable import StoredMessage
from .nats_log import DEAD, judged
from .nats_subjects import Subjects


class NatsHistory:
    """Reads the logs of a system."""

    def __init__(self, subjects: Subjects, jetstream: Callable[[], Awaitable[JetStreamContext]]) -> None:
        """``jetstream`` waits for a connection; it raises `TransportError`."""
        self._subjects, self._js = subjects, jetstream

    async def bounds(self, component: str) -> tuple[int, int]:
        """See `DurableStore`."""
        stream = self._subjects.stream(component)
        try:
            state = (await (await self._js()).stream_info(stream)).state
        except NotFoundError:
            return 1, 0
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise judged(stream, error) from None
        return state.first_seq, state.last_seq

    async def sequence_at(self, component: str, since_s: float) -> int:
        """See `DurableStore`: the times in a log grow, so that halving finds it."""
        low, last = await self.bounds(component)
        high = last + 1
        while low < high:
            middle = (low + high) // 2
            found = await self._message(component, middle, ">")
            if found is None or not found.seq or not found.time or found.time.timestamp() >= since_s:
                high = middle
            else:
                low = found.seq + 1
        return low

    async def messages(
        self, component: str, first: int, last: int, *, dead: bool = False
    ) -> AsyncIterator[StoredMessage]:
        """See `DurableStore`."""
        buried = self._subjects.durable(component, DEAD)
        sequence = max(1, first)
        while sequence <= last:
            found = await self._message(component, sequence, DEAD if dead else "*")
            if found is None or found.seq is None or found.seq > last:
                return
            sequence = found.seq + 1
            subject = found.subject or ""
            if (subject == buried) is not dead:
                continue
            headers = found.headers or {}
            place = (headers.get("Callboard-Subject", "") if dead else subject).rpartition(".")[2]
            payload = found.data or b""
            if dead and not payload:  # with its headers it was too large for a copy
                payload = await self._original(component, headers.get("Callboard-Sequence", ""))
            yield StoredMessage(
                payload=payload,
                sequence=found.seq,
                instance=int(place) if place.isdecimal() else None,
                message_id=headers.get("Callboard-Message-Id" if dead else "Nats-Msg-Id", ""),
                stored_at_s=found.time.timestamp() if found.time else 0.0,
            )

    async def _message(self, component: str, sequence: int, place: str) -> api.RawStreamMsg | None:
        """The first message at or after a sequence, None if there is none."""
        stream, subject = self._subjects.stream(component), self._subjects.durable(component, place)
        try:
            return await (await self._js()).get_msg(stream, seq=sequence, subject=subject, next=True)
        except NotFoundError:
            return None
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise judged(stream, error) from None

    async def _original(self, component: str, sequence: str) -> bytes:
        if not sequence.isdecimal():
            return b""
        found = await self._message(component, int(sequence), "*")
        return found.data or b"" if found is not None and found.seq == int(sequence) else b""
