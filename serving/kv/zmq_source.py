"""KV events of an engine that publishes them over zmq as vLLM and SGLang do: a SUB socket, and a replay socket.

A message is ``[topic, sequence (8 bytes, big-endian, from 0), batch]``. On the replay socket a DEALER sends
``["", first]`` and gets ``["", (topic,) sequence, batch]`` until the sequence is all ones. If the engine no longer has
what is missing, or has no replay socket, the cache of that rank counts as empty, and fills again with what comes.

An engine that was started again counts from 0, and may have passed our last number before we are connected. So with
every connection, and every gap, it is asked from some messages back: if these are not those that we had, it is another.

Each data-parallel rank has its own sockets, at the port after that of the rank before it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import zmq

from callboard.transports.errors import ConfigError
from callboard.transports.zmq_sockets import (
    EVENT_HANDSHAKE_SUCCEEDED,
    NOBLOCK,
    Monitor,
    Watched,
    acquire_context,
    release_context,
)

from .changes import AllCleared, EngineChange
from .engine_events import BadEvents, read_batch

END = (1 << 64) - 1
REPLAY_S = 5.0
QUEUED = 100_000
RECENT = 64
"""Messages that are remembered, to know the engine by."""

WAITING = 10_000
"""Messages that are kept while a gap is replayed."""

log = logging.getLogger("callboard.serving")
Listener = Callable[[Sequence[EngineChange]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZmqSourceSettings:
    """Where an engine publishes. Raises `ConfigError` with every problem."""

    endpoint: str
    """For example ``tcp://127.0.0.1:5557``."""
    replay: str = ""
    """For example ``tcp://127.0.0.1:5558``; empty: there is none."""
    topic: str = ""
    bind: bool = False
    """The engine connects to us: it does so where its endpoint has no ``*``."""
    dp_ranks: int = 1

    def __post_init__(self) -> None:
        problems = [
            f'kv_events.{name} is "{value}"; it must be tcp://host:port or ipc://path'
            for name in ("endpoint", "replay")
            if (value := getattr(self, name)) != "" and not re.match(r"(tcp|ipc)://.+", str(value))
        ]
        if self.endpoint == "":
            problems.append("kv_events.endpoint is missing; it is where the engine publishes")
        if type(self.dp_ranks) is not int or self.dp_ranks < 1:
            problems.append(f"kv_events.dp_ranks is {self.dp_ranks!r}; it must be a whole number, at least 1")
        if not isinstance(self.topic, str):
            problems.append(f"kv_events.topic is {self.topic!r}; it must be a text")
        if type(self.bind) is not bool:
            problems.append(f"kv_events.bind is {self.bind!r}; it must be true or false")
        if problems:
            raise ConfigError(problems)


def of_rank(endpoint: str, rank: int) -> str:
    """Return the endpoint of a data-parallel rank, as vLLM counts them.

    >>> of_rank("tcp://127.0.0.1:5557", 2)
    'tcp://127.0.0.1:5559'
    """
    head, colon, port = endpoint.rpartition(":")
    if endpoint.startswith("tcp://") and port.isdigit():
        return f"{head}{colon}{int(port) + rank}"
    return endpoint if not rank else f"{endpoint}_dp{rank}"


class ZmqSource:
    """Follows the ranks of one engine and tells ``listener`` what changed, in order, on the event loop."""

    def __init__(self, settings: ZmqSourceSettings, listener: Listener) -> None:
        self._ranks = [_RankSource(settings, rank, listener) for rank in range(settings.dp_ranks)]
        self._open = False

    def __repr__(self) -> str:
        return f"<ZmqSource {self._ranks}>"

    async def start(self) -> None:
        """Begin. Raises `ConfigError` if a socket cannot be used."""
        context = acquire_context()
        self._open = True
        try:
            for rank in self._ranks:
                rank.start(context)
        except ConfigError:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop; idempotent."""
        if self._open:
            self._open = False
            for rank in self._ranks:
                await rank.close()
            await asyncio.to_thread(release_context)

    def statistics(self) -> dict[str, int]:
        """Counters of all ranks together."""
        names = (
            "messages", "gaps", "replays", "failed_replays", "resets", "duplicates", "dropped", "bad", "unknown",
        )  # fmt: skip
        return {name: sum(getattr(rank, name) for rank in self._ranks) for name in names}


class _RankSource:
    def __init__(self, settings: ZmqSourceSettings, rank: int, listener: Listener) -> None:
        self._settings, self._rank, self._listener = settings, rank, listener
        self._next: int | None = None
        self._waiting: list[tuple[int, bytes]] | None = None
        self._replaying: asyncio.Task[None] | None = None
        self._is_doubted = self._again = False
        """The connection is new: it may be another engine. And it came while the one before was looked at."""
        self._subscribe: Watched | None = None
        self._monitor: Monitor | None = None
        self._context: zmq.Context[Any] | None = None
        self._named: set[int] = {rank}
        """Ranks that the engine has spoken of: a batch may name another than its socket's."""
        self._recent: dict[int, bytes] = {}
        """The last messages, to know one that comes twice from one of an engine that was started again."""
        self.messages = self.gaps = self.replays = self.resets = self.bad = self.unknown = 0
        self.failed_replays = self.duplicates = self.dropped = 0

    def __repr__(self) -> str:
        return f"<rank {self._rank} at {self._next}>"

    def start(self, context: zmq.Context[Any]) -> None:
        self._context = context
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, QUEUED)
        socket.setsockopt(zmq.SUBSCRIBE, self._settings.topic.encode())
        endpoint = of_rank(self._settings.endpoint, self._rank)
        self._monitor = Monitor(socket, self._happened)
        try:
            if self._settings.bind:
                socket.bind(endpoint)
            else:
                socket.connect(endpoint)
        except zmq.ZMQError as error:
            self._monitor.close()
            socket.close(0)
            raise ConfigError(f"kv_events.endpoint {endpoint}: {error}") from None
        self._subscribe = Watched(socket, self._receive)

    async def close(self) -> None:
        if self._replaying is not None:
            self._replaying.cancel()
            with suppress(asyncio.CancelledError):
                await self._replaying
        if self._subscribe is not None:
            assert self._monitor is not None
            self._monitor.close()
            self._subscribe.close(0)

    def _happened(self, kind: int, _: int) -> None:
        if kind != EVENT_HANDSHAKE_SUCCEEDED:
            return
        self._is_doubted = self._next is not None
        if self._waiting is not None:
            self._again = True
        elif self._settings.replay:
            self._replay()  # what the engine did before we came
        elif self._is_doubted:
            self._begin_anew()

    def _receive(self) -> None:
        assert self._subscribe is not None
        frames = self._subscribe.socket.recv_multipart(NOBLOCK)
        if len(frames) != 3 or len(frames[1]) != 8:
            self.bad += 1
            return
        self.messages += 1
        self._arrived(int.from_bytes(frames[1], "big"), frames[2])

    def _arrived(self, number: int, batch: bytes) -> None:
        if self._waiting is not None:
            self._waiting.append((number, batch))
            if len(self._waiting) > WAITING:
                del self._waiting[0]
                self.dropped += 1
        elif self._next is None or number == self._next:
            self._take(number, batch)
        elif number > self._next:
            self.gaps += 1
            self._replay()
            self._arrived(number, batch)
        elif self._recent.get(number) == batch:
            self.duplicates += 1  # the replay was faster
        else:  # the engine was started again
            self._begin_anew()
            self._replay()
            self._arrived(number, batch)

    def _take(self, number: int, batch: bytes) -> None:
        self._next = number + 1
        self._recent[number] = batch
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        self._apply(batch)

    def _apply(self, batch: bytes) -> None:
        try:
            changes, unknown = read_batch(batch, self._rank)
        except BadEvents as error:
            self.bad += 1
            log.warning("KV events of rank %d: %s", self._rank, error)
            self._reset()
            return
        self.unknown += unknown
        if changes:
            self._named.update(change.dp_rank for change in changes)
            self._listener(changes)

    def _reset(self) -> None:
        self.resets += 1
        self._recent.clear()
        self._listener([AllCleared(dp_rank=rank) for rank in sorted(self._named)])

    def _begin_anew(self) -> None:
        """It is another engine than the one that told what we know."""
        self._reset()
        self._next, self._is_doubted = None, False

    def _replay(self) -> None:
        self._waiting = []
        self._replaying = asyncio.get_running_loop().create_task(
            self._catch_up(), name=f"KV events of rank {self._rank}", context=Context()
        )

    async def _catch_up(self) -> None:
        self._again = True
        try:
            while self._again:
                self._again = False
                missed = await self._missed() if self._settings.replay else []
                waiting, self._waiting = self._waiting or [], []
                self._merge(missed, waiting)
        finally:
            self._waiting = None

    async def _missed(self) -> list[tuple[int, bytes]]:
        """Return what came after what we have, and some of what we have; begins anew if the engine is another."""
        found: list[tuple[int, bytes]] = []
        try:
            self.replays += 1
            found = await self._ask(0 if self._next is None else min(self._recent, default=self._next))
            if self._next is not None and not self._is_known(found):
                self._begin_anew()
                found = []
                found = await self._ask(0)
        except (TimeoutError, ValueError, zmq.ZMQError) as error:
            self.failed_replays += 1
            log.warning("KV events of rank %d cannot be replayed: %s", self._rank, error or "no answer")
            if self._is_doubted:
                self._begin_anew()
        self._is_doubted = False
        return found

    def _is_known(self, found: list[tuple[int, bytes]]) -> bool:
        """True if an engine has said what we remember of it."""
        both = [self._recent[number] == batch for number, batch in found if number in self._recent]
        return bool(both) and all(both)

    def _merge(self, missed: list[tuple[int, bytes]], waiting: list[tuple[int, bytes]]) -> None:
        for number, batch in sorted({**dict(missed), **dict(waiting)}.items()):
            if self._next is not None and number < self._next:
                continue
            if self._next is not None and number != self._next:
                self._reset()  # the engine no longer has what is between
            self._take(number, batch)

    async def _ask(self, first: int) -> list[tuple[int, bytes]]:
        assert self._context is not None
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, QUEUED)
        answers: asyncio.Queue[list[bytes]] = asyncio.Queue()
        watched = Watched(socket, lambda: answers.put_nowait(socket.recv_multipart(NOBLOCK)))
        found: list[tuple[int, bytes]] = []
        try:
            socket.connect(of_rank(self._settings.replay, self._rank))
            socket.send_multipart([b"", first.to_bytes(8, "big")])
            watched.after_send()
            while True:
                async with asyncio.timeout(REPLAY_S):
                    frames = await answers.get()
                if len(frames) < 2 or len(frames[-2]) != 8:
                    raise ValueError(f"an answer of {len(frames)} frames")
                number = int.from_bytes(frames[-2], "big")
                if number == END:
                    return found
                found.append((number, frames[-1]))
                if len(found) > QUEUED:
                    raise ValueError(f"more than {QUEUED:,} messages")
        finally:
            watched.close(0)
