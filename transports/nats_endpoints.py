"""The actors of one process, as strangers on NATS find them: their subjects, queue groups and services.

A *stranger* speaks JSON and knows nothing of links. What it may occupy here is bounded; who asks beyond that is
refused at once. An answer goes only to a subject that is not ours and not the NATS server's: whoever may merely ask an
actor must not have this process publish to where only this process may.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from time import monotonic, perf_counter_ns

from nats.aio.msg import Msg

from .base import Answer, Endpoint, Identity, PlaneStatistics
from .errors import BadAddress, TransportError
from .nats_connection import NatsConnection
from .nats_service import Place, Service, error_headers

MOST_REQUESTS = 1000
"""Of strangers, being handled in one process at once."""
MOST_BYTES = 64 * 1024 * 1024
"""Of these requests together."""
LEAVE_S = 0.25
"""How long a stop without grace waits for the NATS server to say that nothing more comes."""
CLOSE_S = 1.0
LONGEST_SUBJECT = 1000
"""Characters. A NATS server ends a connection that sends a line of more than 4 KiB."""
HEADER_ROOM_BYTES = 64
"""The lines of a header without its values."""

log = logging.getLogger("callboard.transports.nats")


class Exposed:
    """One actor with its subjects."""

    __slots__ = ("endpoint", "running", "service")

    def __init__(self, endpoint: Endpoint, service: Service) -> None:
        self.endpoint = endpoint
        self.service = service
        self.running: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Exposed {self.endpoint.name}, {len(self.running)} requests>"


class Sharers:
    """Those who share a subject: the instances of a component, the services of one name."""

    __slots__ = ("_turn", "members")

    def __init__(self) -> None:
        self.members: list[Exposed] = []
        self._turn = 0

    def __repr__(self) -> str:
        return f"<Sharers {[member.endpoint.name for member in self.members]}>"

    def pick(self) -> Exposed:
        """Return the member for whom the fewest messages wait; those who are equal take turns."""
        if len(self.members) == 1:
            return self.members[0]
        waiting = [member.endpoint.waiting() for member in self.members]
        fewest = min(waiting)
        equal = [member for member, count in zip(self.members, waiting, strict=True) if count == fewest]
        self._turn += 1
        return equal[self._turn % len(equal)]


class Endpoints:
    """The exposed actors of one process."""

    def __init__(self, identity: Identity, prefix: str, statistics: PlaneStatistics) -> None:
        self._identity = identity
        self._forbidden = ("$", f"{prefix}.")
        self._statistics = statistics
        self._exposed: dict[str, Exposed] = {}
        self._sharers: dict[str, Sharers] = {}
        """By subject: who is listened for there."""
        self._running: set[asyncio.Task[None]] = set()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Endpoints {sorted(self._exposed)}, {len(self._running)} requests of strangers>"

    def __len__(self) -> int:
        return len(self._exposed)

    async def expose(self, connection: NatsConnection, endpoint: Endpoint) -> None:
        """See `EndpointServer.expose`; raises `BadAddress` for a name that is too long for a subject."""
        service = Service(endpoint, self._identity, connection.subjects, secrets.token_hex(11))
        longest = max(service.by_instance.subject, service.control_subjects[-1], key=len)
        if len(longest) > LONGEST_SUBJECT:
            why = f"its name makes a subject of {len(longest):,} characters; the limit is {LONGEST_SUBJECT:,}"
            raise BadAddress(f"{endpoint.name[:40]}...", why)
        exposed = self._exposed[endpoint.name] = Exposed(endpoint, service)

        def for_instance(sharers: Sharers, message: Msg) -> None:
            if not connection.links.take(message):
                chosen = sharers.pick()
                self._handle(connection, chosen, chosen.service.by_instance, message)

        def for_component(sharers: Sharers, message: Msg) -> None:
            if not connection.links.take(message):
                chosen = sharers.pick()
                self._handle(connection, chosen, chosen.service.by_component, message)

        def for_services(sharers: Sharers, message: Msg) -> None:
            if message.reply and self._may_answer(message):
                for member in list(sharers.members):
                    body = member.service.reply(message.subject)
                    if body is not None:
                        self._send(connection, message.reply, Answer(body=body))

        joins = [
            self._join(connection, service.by_instance.subject, exposed, for_instance),
            self._join(
                connection,
                service.by_component.subject,
                exposed,
                for_component,
                queue=service.by_component.queue_group,
            ),
            *(self._join(connection, subject, exposed, for_services) for subject in service.control_subjects),
        ]
        await asyncio.gather(*joins)

    async def _join(
        self,
        connection: NatsConnection,
        subject: str,
        exposed: Exposed,
        handle: Callable[[Sharers, Msg], None],
        queue: str = "",
    ) -> None:
        sharers = self._sharers.get(subject)
        if sharers is None:
            sharers = self._sharers[subject] = Sharers()
            sharers.members.append(exposed)
            shared = sharers
            await connection.listen(subject, lambda message: handle(shared, message), queue=queue)
        else:
            sharers.members.append(exposed)

    async def withdraw(self, connection: NatsConnection, name: str, grace_s: float) -> None:
        """See `EndpointServer.withdraw`."""
        exposed = self._exposed.pop(name, None)
        if exposed is None:
            return
        until_s = monotonic() + grace_s
        service = exposed.service
        subjects = (service.by_instance.subject, service.by_component.subject, *service.control_subjects)
        lonely = [subject for subject in subjects if self._quit(subject, exposed)]
        await asyncio.gather(*(connection.leave(subject, max(grace_s, LEAVE_S)) for subject in lonely))
        left_s = until_s - monotonic()
        if exposed.running and left_s > 0:
            await asyncio.wait(exposed.running, timeout=left_s)

    def _quit(self, subject: str, exposed: Exposed) -> bool:
        """True if nobody else is listened for there; what has been delivered still goes to who leaves."""
        sharers = self._sharers.get(subject)
        if sharers is None or exposed not in sharers.members:
            return False
        if len(sharers.members) > 1:
            sharers.members.remove(exposed)
            return False
        del self._sharers[subject]
        return True

    async def close(self, connection: NatsConnection) -> None:
        """Withdraw all, and end what still runs."""
        await asyncio.gather(*(self.withdraw(connection, name, 0.0) for name in list(self._exposed)))
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_S)
        left = list(self._running)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    # -- requests

    def _handle(self, connection: NatsConnection, exposed: Exposed, place: Place, message: Msg) -> None:
        """Give one request to an actor; runs at once, so that requests stay in their order."""
        began_ns, body, endpoint = perf_counter_ns(), message.data, exposed.endpoint
        if not message.reply:
            told = endpoint.tell(body)
            place.tally.count(perf_counter_ns() - began_ns, told.error)
            return
        if not self._may_answer(message):
            return
        why = self._too_busy(len(body))
        if why:
            refused = Answer.failure(429, "TooManyRequests", why)
            place.tally.count(perf_counter_ns() - began_ns, refused.error)
            self._send(connection, message.reply, refused)
            return
        waiting = endpoint.ask(body)
        work = self._answer(connection, place, message.reply, waiting, began_ns)
        task = asyncio.get_running_loop().create_task(work, name=f"stranger to {endpoint.name}")
        self._bytes += len(body)
        self._running.add(task)
        exposed.running.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._bytes -= len(body)
            self._running.discard(task)
            exposed.running.discard(task)

        task.add_done_callback(ended)

    def _too_busy(self, size: int) -> str:
        if len(self._running) >= MOST_REQUESTS:
            return f"{MOST_REQUESTS:,} requests from outside are being handled in this process, which is its limit"
        if self._bytes + size > MOST_BYTES and self._running:
            return (
                f"requests from outside with {self._bytes:,} bytes are being handled in this process; "
                f"with this one of {size:,} they exceed its limit of {MOST_BYTES:,}"
            )
        return ""

    def _may_answer(self, message: Msg) -> bool:
        if not message.reply.startswith(self._forbidden):
            return True
        self._statistics.garbage_connections += 1
        log.warning("dropped a request on %s: its answer would go to %s", message.subject, message.reply)
        return False

    async def _answer(
        self,
        connection: NatsConnection,
        place: Place,
        reply: str,
        waiting: Awaitable[Answer],
        began_ns: int,
    ) -> None:
        answer = _fitting(connection, await waiting)
        place.tally.count(perf_counter_ns() - began_ns, answer.error)
        self._send(connection, reply, answer)

    def _send(self, connection: NatsConnection, reply: str, answer: Answer) -> None:
        headers = error_headers(answer.code, answer.error) if answer.error else None
        try:
            connection.publish(reply, answer.body, headers=headers)
        except TransportError as error:
            unsent = self._statistics.extra
            unsent["unsent_answers"] = unsent.get("unsent_answers", 0) + 1
            log.info("an answer to a stranger could not be sent: %s", error)


def _fitting(connection: NatsConnection, answer: Answer) -> Answer:
    """Return the answer, or one that says why it cannot be sent: a server ends the connection for a larger one."""
    headers = error_headers(answer.code, answer.error) if answer.error else {}
    size = len(answer.body) + sum(map(len, headers.values())) + (HEADER_ROOM_BYTES if headers else 0)
    try:
        limit = connection.client.max_payload
    except TransportError:
        return answer
    if size <= limit:
        return answer
    what = "answer" if answer.code == 200 else f"error {answer.code}"
    why = f"the {what} has {size:,} bytes; this NATS server takes {limit:,} (max_payload)"
    return Answer.failure(500, "TooLarge", why, "yes")
