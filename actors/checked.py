"""The way to an actor of the same process, as between processes: every value is encoded and decoded.

For development (``encode_in_process``): what is shared by accident, and what would not travel, is found before
actors are moved apart. In use it costs what a message between processes costs to encode; not in use, nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

from .cell import Cell
from .codec import Codec
from .errors import BadArguments, DecodeError, EncodeError
from .failure import from_facts, to_facts
from .local import Host as LocalHost
from .local import LocalOrigin, LocalRoute
from .mailbox import Letter
from .outlet import argument_path
from .policy import Executed
from .producer import Feed, LocalProducer
from .signature import Method


class Host(LocalHost, Protocol):
    """What this needs from its node, besides."""

    codec: Codec


def copied(codec: Codec, value: Any, what: str) -> Any:
    """Return what another process would get; raises `EncodeError` and `DecodeError`."""
    body, buffers = codec.encode(value, what)
    return codec.decode(body, [bytes(buffer) for buffer in buffers or ()])


class CheckedOrigin(LocalOrigin):
    """Takes answers, and passes copies of them on."""

    __slots__ = ("codec",)

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.codec = host.codec

    def route(self, cell: Cell) -> LocalRoute:
        """See `LocalOrigin`."""
        return CheckedRoute(self, cell)

    def reply(self, letter: Letter, value: Any) -> None:
        """Answer an ask; what cannot be sent becomes the error."""
        try:
            value = copied(self.codec, value, "the result")
        except (EncodeError, DecodeError) as error:
            self.fail(letter, error, ran=True)
        else:
            super().reply(letter, value)

    def fail(self, letter: Letter, error: BaseException, *, ran: bool) -> None:
        """Answer with an error that was built anew."""
        where = letter.cell.location
        super().fail(letter, from_facts(to_facts(error, where.name, where.incarnation, ran=ran)), ran=ran)

    def producer(self, letter: Letter) -> LocalProducer:
        """Make the sending side of a stream."""
        reader = self.host.readers[letter.id]
        producer = CheckedProducer(reader, self.codec)
        reader.more = producer.more
        return producer


class CheckedProducer(LocalProducer):
    """Hands copies of the items to a reader."""

    __slots__ = ("_codec",)

    def __init__(self, reader: Feed, codec: Codec) -> None:
        super().__init__(reader)
        self._codec = codec

    async def pump(self, source: AsyncIterator[Any]) -> None:
        """See `Producer`; raises `EncodeError`, too."""
        async with aclosing(self._copies(source)) as copies:
            await super().pump(copies)

    async def _copies(self, source: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        async for item in source:
            yield copied(self._codec, item, "an item")


class CheckedRoute(LocalRoute):
    """The way to one actor incarnation of this process, for copies of the arguments."""

    __slots__ = ()
    origin: CheckedOrigin

    def _deliver(
        self,
        kind: int,
        call_id: int,
        method: Method,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float,
        extra: Any,
    ) -> None:
        try:
            args, kwargs = self._copies(method.name, args, kwargs)
        except BaseException:
            self.origin.host.pending.calls.pop(call_id, None)
            self.origin.host.readers.pop(call_id, None)
            raise
        super()._deliver(kind, call_id, method, args, kwargs, deadline, extra)

    def _copies(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        where = self.location
        try:
            value = copied(self.origin.codec, {"a": list(args), "k": kwargs}, "arguments")
        except EncodeError as error:
            path = f"{where.name}.{method}: {argument_path(error.path)}"
            raise EncodeError(path, error.why).of(where.name, where.incarnation, Executed.NEVER) from None
        except DecodeError as error:
            raise BadArguments(str(error), actor=where.name, incarnation=where.incarnation) from None
        return tuple(value["a"]), value["k"]
