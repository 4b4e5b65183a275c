"""A log whose stream is refused: what it says of messages whose fate nobody knows."""

from __future__ import annotations

import asyncio
from typing import Any

from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import NotStored
from callboard.transports.nats_log import Item, NatsLog

from ..integration.waiting import until


class Server:
    """Takes what is sent, and never answers."""

    is_up = True
    max_payload = 1 << 20

    def __init__(self) -> None:
        self.sent: list[str] = []

    @property
    def client(self) -> Any:
        return self

    def publish(
        self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None = None
    ) -> None:
        self.sent.append(subject)

    def forget_said(self) -> None:
        pass

    def later(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)


class Log(NatsLog):
    """Its stream can be prepared once."""

    refused = False

    async def prepare(self) -> None:
        if self.refused:
            raise NotStored(self.component, "JetStream refuses the stream")
        self._ready = True


async def test_what_was_sent_on_a_connection_that_broke_is_perhaps_stored() -> None:
    server = Server()
    entry = Log(server, "c", "s", "x.>", DurablePolicy())
    first = entry.add(Item(1, "x._", b"1", {}, "r", float("inf")))
    await until(lambda: server.sent)
    entry.refused = True
    entry.opened()
    second = entry.add(Item(2, "x._", b"2", {}, "r", float("inf")))
    await asyncio.wait([first, second])
    errors = [first.exception(), second.exception()]
    assert [error.maybe for error in errors if isinstance(error, NotStored)] == [True, False]
