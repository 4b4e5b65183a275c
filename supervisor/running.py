"""One incarnation of a process, as the supervisor sees it: spawned, spoken to, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from callboard.actors.directory import Location
from callboard.transports.ipc import remove_sockets_of

from . import child, control
from .errors import StartupFailed
from .guardian import start_time
from .liveness import Liveness
from .process import Launch, Process, describe_exit

LOG_TAIL_LINES = 30
LOG_TAIL_BYTES = 16384
LAST_WORDS_S = 0.2

decoder: msgspec.msgpack.Decoder[control.FromChild] = msgspec.msgpack.Decoder(control.FromChild)


class RunningProcess:
    """An operating-system process with its control channel.

    ``exited`` is called once when it is gone, ``told`` for what is not an answer to one of our questions.
    """

    def __init__(
        self,
        options: child.ChildOptions,
        launch: Launch,
        *,
        told: Callable[[RunningProcess, control.FromChild], None],
        exited: Callable[[RunningProcess], None],
    ) -> None:
        """Spawn; raises `OSError` if that cannot be done."""
        self.name, self.incarnation = options.name, options.incarnation
        self.node = ""
        self.address = ""
        self._ipc_directory = options.settings.ipc_directory
        self.liveness = Liveness()
        self.last_words = ""
        self._exit_code: int | None = None
        self._told, self._exited = told, exited
        self._log_path = launch.log_path
        self._log_start = launch.log_path.stat().st_size if launch.log_path.exists() else 0
        self._channel: control.Channel[control.FromChild] | None = None
        self._number = 0
        self._questions: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._starting: dict[str, asyncio.Future[Location]] = {}
        self._stopping: dict[str, asyncio.Future[None]] = {}
        loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._silent: asyncio.Future[None] = loop.create_future()
        self._near, far = socket.socketpair()
        try:
            self.process = Process(options.name, child.main, (options, far), launch)
        except BaseException:
            self._near.close()
            raise
        finally:
            far.close()
        self.pid = self.process.pid
        self.started = start_time(self.pid)
        self.process.watch(loop, self._ended)

    @property
    def is_gone(self) -> bool:
        """True once the process was reaped."""
        return self._gone.done()

    @property
    def exit_reason(self) -> str:
        """How it ended, in words."""
        words = f" ({self.last_words})" if self.last_words else ""
        return f"{describe_exit(self._exit_code)}{words}"

    @property
    def ended_normally(self) -> bool:
        """True if it ended by itself with exit code 0."""
        return self.is_gone and self._exit_code == 0

    def send(self, message: control.ToChild) -> None:
        """Tell it something; lost if it is gone."""
        if self._channel is not None:
            self._channel.send(message)

    async def hello(self, limit_s: float) -> None:
        """Wait until its node listens. Raises `StartupFailed`."""
        self._channel = control.Channel(decoder, self._received, self._lost)
        await self._channel.take(self._near)
        await self._within(limit_s, self._hello, self.name, "its node did not listen")

    async def start_actor(self, message: control.StartActor, limit_s: float) -> Location:
        """Start an actor and wait until it is ready. Raises `StartupFailed`."""
        future: asyncio.Future[Location] = asyncio.get_running_loop().create_future()
        self._starting[message.name] = future
        self.send(message)
        try:
            location: Location = await self._within(limit_s, future, message.name, "it was not ready")
            return location
        finally:
            del self._starting[message.name]

    async def stop_actor(self, message: control.StopActor, limit_s: float) -> bool:
        """Stop an actor; False if the child did not say so in time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping[message.name] = future
        self.send(message)
        try:
            await asyncio.wait((future, self._gone), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            return future.done()
        finally:
            del self._stopping[message.name]

    async def statistics(self, limit_s: float) -> dict[str, Any]:
        """What its node counts; empty if it does not answer in time."""
        self._number += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._questions[self._number] = future
        self.send(control.AskStatistics(self._number))
        try:
            async with asyncio.timeout(limit_s):
                return await future
        except TimeoutError:
            return {}
        finally:
            self._questions = {n: f for n, f in self._questions.items() if f is not future}

    async def gone(self, limit_s: float) -> bool:
        """Wait until it is reaped; False if it was not in time."""
        await asyncio.wait((self._gone,), timeout=limit_s)
        return self._gone.done()

    def kill(self) -> None:
        """Kill everything in its session's group; also after its leader is gone."""
        self.process.signal(signal.SIGKILL)

    async def close(self) -> None:
        """Let go of it; it must be gone."""
        if self._channel is None or not self._channel.is_connected:
            self._near.close()
        else:
            self._channel.abort()
        self.process.close()
        if self.node:
            remove_sockets_of(self._ipc_directory, self.node)

    def log_tail(self) -> str:
        """The end of what this incarnation wrote."""
        return log_tail(self._log_path, self._log_start)

    async def _within(self, limit_s: float, future: asyncio.Future[Any], place: str, why: str) -> Any:
        await asyncio.wait((future, self._gone), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if not future.done() and self.is_gone:
            await asyncio.wait((self._silent,), timeout=LAST_WORDS_S)
        if future.done():
            return future.result()
        future.cancel()
        if self.is_gone:
            raise StartupFailed(place, f"process {self.name} {self.exit_reason}", self.log_tail())
        raise StartupFailed(place, f"{why} within {limit_s:g} s", self.log_tail())

    def _received(self, message: control.FromChild) -> None:
        match message:
            case control.Pong(number):
                self.liveness.answer(number)
            case control.Hello(_, node, address):
                self.node, self.address = node, address
                _settle(self._hello, None)
            case control.ActorReady(name, _, location):
                _settle(self._starting.get(name), Location.from_wire(location))
            case control.ActorStartFailed(name, _, error, trace):
                _fail(self._starting.get(name), StartupFailed(name, error, trace))
            case control.ActorStopped(name):
                _settle(self._stopping.get(name), None)
            case control.Statistics(number, data):
                _settle(self._questions.get(number), data)
            case control.ProcessFailed(error, trace):
                self.last_words = error
                _fail(self._hello, StartupFailed(self.name, error, trace))
            case _:
                self._told(self, message)

    def _lost(self, error: Exception | None) -> None:
        _settle(self._silent, None)
        # A reset is how a killed process hangs up: its end will be seen by itself.
        if not self.is_gone and error is not None and not isinstance(error, ConnectionError):
            self.last_words = f"its control channel broke: {error}"
            self.kill()

    def _ended(self) -> None:
        self._exit_code = self.process.exit_code
        _settle(self._gone, None)
        self._exited(self)

    def __repr__(self) -> str:
        state = self.exit_reason if self.is_gone else "runs"
        return f"<RunningProcess {self.name} incarnation {self.incarnation} pid {self.pid} {state}>"


def log_tail(path: Path, start: int = 0) -> str:
    """The last lines of a log file, as far as they are behind ``start``; empty if there is none."""
    with suppress(OSError), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(start, size - LOG_TAIL_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    return ""


def _settle(future: asyncio.Future[Any] | None, value: Any) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any] | None, error: Exception) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
        future.exception()  # whoever waited may have been cancelled: then nobody looks at it
