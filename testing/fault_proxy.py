"""A proxy for byte streams that does to them what networks do: cuts, silence, delay, crumbs.

It stands between one who dials (a node, a NATS client) and the one who is dialled, over TCP or unix sockets, and knows
nothing of what passes. It runs in a thread with an event loop of its own, so that a test whose loop is blocked
still has a network.

    with FaultProxy("127.0.0.1:4222") as proxy:
        ...                               # dial proxy.endpoint
        proxy.blackhole(Way.UP)
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

CHUNK_BYTES = 64 * 1024
MOST_CHUNKS = 64
"""Under way in one direction of one connection; then its sender has to wait, as with a full network."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset."""


class Way(Enum):
    """A direction, seen from the one who dialled."""

    UP = "up"
    """To the one who was dialled."""
    DOWN = "down"
    """Back to the one who dialled."""


class FaultProxy:
    """Accepts connections at `endpoint` and carries each on to ``target``: ``host:port``, or the path of a unix socket.

    ``listen`` is the path of a unix socket to listen on; without it the proxy listens on a free port of 127.0.0.1.
    A connection ends at once if the target refuses it. The faults can be set and taken back from any thread, and hold
    for the connections that there are and for those to come; each method returns when it is done.
    """

    def __init__(self, target: str, *, listen: str = "") -> None:
        self.target = target
        self.endpoint = listen
        """Where to dial instead of the target; known once it is started."""
        self._listen = listen
        self._faults = _Faults()
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._carriers: set[asyncio.Task[None]] = set()
        self._accepted = 0

    def __repr__(self) -> str:
        state = f"{len(self._carriers)} connections, {self._faults}" if self._thread else "not running"
        return f"<FaultProxy {self.endpoint or '?'} to {self.target}, {state}>"

    def statistics(self) -> dict[str, int]:
        """Connections accepted so far, those that there are, and bytes carried in each direction."""
        carried = {f"bytes_{way.value}": self._faults.carried_bytes[way] for way in Way}
        return {"accepted": self._accepted, "connections": len(self._carriers)} | carried

    # -- life

    def start(self) -> FaultProxy:
        """Listen; returns itself. Raises OSError if that fails."""
        self._started.clear()
        self._error = None
        self._thread = threading.Thread(target=self._run, name=f"fault proxy to {self.target}", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            self._thread.join()
            self._thread = None
            raise self._error
        return self

    def stop(self) -> None:
        """End every connection, the listener and the thread; idempotent."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        # asyncio's own loop: it keeps no descriptor when it is closed.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._faults.heal()
        try:
            if self._listen:
                server = await asyncio.start_unix_server(self._accept, self._listen)
            else:
                server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
                host, port = server.sockets[0].getsockname()
                self.endpoint = f"{host}:{port}"
        except OSError as error:
            self._error = error
            return
        finally:
            self._started.set()
        await self._stop.wait()
        server.close()
        while asyncio.all_tasks() - {asyncio.current_task()}:  # some have been accepted and not yet begun
            await self._cut()
            await asyncio.sleep(0)
        if self._listen:
            with suppress(OSError):
                os.unlink(self._listen)

    # -- faults

    def cut(self) -> None:
        """End every connection at once, by a reset; what is under way is lost. New ones are accepted."""
        self._do(self._cut())

    def blackhole(self, *ways: Way) -> None:
        """Carry nothing on in these directions (in both, if none is named), not even the end of a connection.

        Afterwards (see `heal`) everything arrives, late, unless somebody gave up: as over TCP when packets got lost.
        """
        self._set(lambda faults: faults.shut(ways or tuple(Way)))

    def delay(self, seconds: float) -> None:
        """Carry everything on so much later, in order."""
        self._set(lambda faults: setattr(faults, "delay_s", seconds))

    def bytewise(self) -> None:
        """Hand on one byte at a time, each in a packet of its own."""
        self._set(lambda faults: setattr(faults, "bytewise", True))

    def heal(self) -> None:
        """Take every fault back; what was cut stays cut."""
        self._set(_Faults.heal)

    def _set(self, change: Callable[[_Faults], None]) -> None:
        async def work() -> None:
            change(self._faults)

        self._do(work())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        if self._thread is None:
            work.close()
            raise RuntimeError(f"{self!r}: start it first")
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _cut(self) -> None:
        carriers = list(self._carriers)
        for carrier in carriers:
            carrier.cancel()
        if carriers:
            await asyncio.wait(carriers)

    # -- connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._accepted += 1
        self._carriers.add(task)
        try:
            await self._carry(reader, writer)
        except asyncio.CancelledError:
            pass  # cut; asyncio would report it as an error of the callback
        finally:
            self._carriers.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends, in_order = [writer], False
        try:
            if ":" in self.target:
                host, _, port = self.target.rpartition(":")
                there, back = await asyncio.open_connection(host.strip("[]"), int(port))
            else:
                there, back = await asyncio.open_unix_connection(self.target)
            ends.append(back)
            async with asyncio.TaskGroup() as pumps:
                for way, source, sink in ((Way.UP, reader, back), (Way.DOWN, there, writer)):
                    queue: _Queue = asyncio.Queue(MOST_CHUNKS)
                    pumps.create_task(self._faults.read(source, queue))
                    pumps.create_task(self._faults.write(way, queue, sink))
            in_order = True
        except* OSError:
            pass  # refused, or reset: so is the other end
        finally:
            await _end(ends, in_order=in_order)


async def _end(writers: list[asyncio.StreamWriter], *, in_order: bool) -> None:
    for writer in writers:
        if not in_order:
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        writer.close()
    for writer in writers:
        with suppress(OSError):
            await writer.wait_closed()


_Queue = asyncio.Queue[tuple[float, bytes | None]]
"""When a chunk is due, and the chunk; nothing for the end of the stream, None for a reset."""


@dataclass(slots=True)
class _Faults:
    """What goes wrong, and how bytes are carried under it."""

    delay_s: float = 0.0
    bytewise: bool = False
    open: dict[Way, asyncio.Event] = field(default_factory=lambda: {way: asyncio.Event() for way in Way})
    carried_bytes: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))

    def __str__(self) -> str:
        shut = [way.value for way, gate in self.open.items() if not gate.is_set()]
        return f"delay {self.delay_s} s, {'one byte at a time, ' * self.bytewise}blackhole {shut}"

    def heal(self) -> None:
        self.delay_s, self.bytewise = 0.0, False
        for gate in self.open.values():
            gate.set()

    def shut(self, ways: tuple[Way, ...]) -> None:
        for way in ways:
            self.open[way].clear()

    async def read(self, source: asyncio.StreamReader, queue: _Queue) -> None:
        chunk: bytes | None = b"not yet"
        while chunk:
            try:
                chunk = await source.read(CHUNK_BYTES)
            except OSError:
                chunk = None
            await queue.put((asyncio.get_running_loop().time() + self.delay_s, chunk))

    async def write(self, way: Way, queue: _Queue, sink: asyncio.StreamWriter) -> None:
        gate, loop = self.open[way], asyncio.get_running_loop()
        while True:
            due, chunk = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await gate.wait()
            if chunk is None:
                raise ConnectionResetError
            # Who cannot be written to has gone. The other end hears of it in the other direction, if that is open.
            with suppress(OSError):
                if not chunk:
                    sink.write_eof()
                    return
                for piece in self._pieces(chunk):
                    await gate.wait()
                    sink.write(piece)
                    await sink.drain()
                    self.carried_bytes[way] += len(piece)
                    await asyncio.sleep(0)

    def _pieces(self, chunk: bytes) -> list[bytes]:
        return [chunk[i : i + 1] for i in range(len(chunk))] if self.bytewise else [chunk]
