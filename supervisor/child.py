"""A child process: a node with the actors that the supervisor asks for over the inherited control channel.

The child ends when it is told to, when it gets SIGTERM, or when the control channel ends: then its supervisor
is gone. Ctrl-C is the supervisor's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from callboard.actors.actor import Actor
from callboard.actors.errors import StartFailed
from callboard.actors.node import Node
from callboard.actors.policy import MailboxPolicy, Overflow, StopReason
from callboard.transports.errors import CallboardError
from callboard.transports.settings import NetworkSettings

from . import control, payload
from .roster import Push, apply
from .spec import is_reference

NAMES_OF_SPAWN = {"name", "incarnation", "mailbox"}
"""Keywords of `Node.spawn`: an argument of that name reaches the constructor by its position."""

PARENT_GONE = 3
"""Exit code of a child whose control channel ended."""

TERMINATED = 128 + signal.SIGTERM
TERMINATED_GRACE_S = 2.0
PARENT_GONE_GRACE_S = 0.5

log = logging.getLogger("callboard.child")
decoder: msgspec.msgpack.Decoder[control.ToChild] = msgspec.msgpack.Decoder(control.ToChild)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOptions:
    """What a child must know before its control channel says the rest."""

    name: str
    namespace: str
    incarnation: int
    settings: NetworkSettings
    parent_pid: int
    import_paths: tuple[str, ...] = ()


def main(options: ChildOptions, channel: socket.socket) -> None:
    """The whole life of a child process; ends by `SystemExit`."""
    _die_with_parent(options.parent_pid)
    # Not SIG_IGN: what an actor starts would inherit that, and could not be interrupted.
    signal.signal(signal.SIGINT, _leave_it_to_the_supervisor)
    sys.path[:0] = [path for path in options.import_paths if path not in sys.path]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _set_title(options)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(Child(options).run(channel))
    sys.exit(code)


def _leave_it_to_the_supervisor(number: int, frame: object) -> None:
    """Ctrl-C means the whole system: its supervisor says when to stop."""


def _die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL at the end of the parent; it may have ended already."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(PARENT_GONE)


def _set_title(options: ChildOptions) -> None:
    with contextlib.suppress(ImportError):
        import setproctitle

        # It writes the title over the environment in /proc, and with it over the mark that the guardian looks
        # for, unless told to leave that alone.
        spare = "SPT_NOENV"
        before = os.environ.get(spare)
        os.environ[spare] = "1"
        setproctitle.setproctitle(f"callboard {options.namespace} {options.name}")
        if before is None:
            del os.environ[spare]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class Child:
    """Carries out what the supervisor says, and tells it what became of it."""

    def __init__(self, options: ChildOptions) -> None:
        self._options = options
        self._node = Node(
            name=options.name,
            namespace=options.namespace,
            incarnation=options.incarnation,
            settings=options.settings,
            supervised=True,
        )
        self._node.on_actor_failed = self._actor_failed
        self._node.on_announce = self._announce
        sources = self._node.sources
        sources.announce = lambda source: self._say(control.Publishes(source.to_wire()))
        sources.withdraw = lambda source: self._say(control.PublishesNoMore(source.id))
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._incarnations: dict[str, int] = {}

    async def run(self, sock: socket.socket) -> int:
        """Serve until the end; returns the exit code."""
        loop = asyncio.get_running_loop()
        self._end: asyncio.Future[tuple[int, float]] = loop.create_future()
        self._channel = control.Channel(decoder, self._received, self._lost)
        await self._channel.take(sock)
        loop.add_signal_handler(signal.SIGTERM, self._finish, TERMINATED, TERMINATED_GRACE_S)
        try:
            await self._node.start()
        except Exception as error:  # whatever keeps the node from starting, the supervisor must hear of it
            trace = "" if isinstance(error, CallboardError) else _trace(error)  # those say all themselves
            self._say(control.ProcessFailed(describe(error), trace))
            await self._channel.close()
            return 1
        self._say(control.Hello(os.getpid(), self._node.id, self._node.address))
        code, grace_s = await self._end
        for task in self._starting.values():
            task.cancel()
        await self._node.close(grace_s=grace_s)
        await self._channel.close()
        return code

    def _finish(self, code: int, grace_s: float) -> None:
        if not self._end.done():
            self._end.set_result((code, grace_s))

    def _say(self, message: control.FromChild) -> None:
        self._channel.send(message)

    def _announce(self, name: str, text: str) -> None:
        self._say(control.Announce(name, control.sendable(text)))

    def _lost(self, error: Exception | None) -> None:
        if error is not None:
            log.error("the control channel broke: %s", error)
        self._finish(PARENT_GONE, PARENT_GONE_GRACE_S)

    def _received(self, message: control.ToChild) -> None:
        node = self._node
        match message:
            case control.Ping(number):
                self._say(control.Pong(number))
            case _ if isinstance(message, Push):
                apply(message, node)
            case control.StartActor(name):
                self._starting[name] = self._spawn(self._start(message))
            case control.StopActor(name, reason, grace_s):
                self._spawn(self._stop(name, StopReason(reason), grace_s))
            case control.AskStatistics(number):
                self._say(control.Statistics(number, node.statistics()))
            case control.Stop(grace_s):
                self._finish(0, grace_s)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, message: control.StartActor) -> None:
        name, incarnation = message.name, message.incarnation
        self._incarnations[name] = incarnation
        try:
            cls, args, kwargs = self._what_to_start(message)
            self._say(control.ActorInitialising(name, incarnation))
            if kwargs.keys() & NAMES_OF_SPAWN:
                bound = inspect.signature(cls).bind(*args, **kwargs)
                args, kwargs = bound.args, bound.kwargs
            mailbox = mailbox_from_wire(message.mailbox)
            await self._node.spawn(cls, *args, name=name, incarnation=incarnation, mailbox=mailbox, **kwargs)
        except StartFailed as error:
            why = describe(error.__cause__) if error.__cause__ is not None else control.sendable(error.why)
            trace = control.sendable(error.remote_traceback)
            self._say(control.ActorStartFailed(name, incarnation, why, trace))
        except BaseException as error:  # a user's module may even call sys.exit() while it is imported
            # An ``on_start`` that awaits what it has cancelled raises that without being cancelled itself.
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            self._say(control.ActorStartFailed(name, incarnation, describe(error), _trace(error)))
        else:
            location = self._node.location(name)
            if location is not None:
                self._say(control.ActorReady(name, incarnation, location.to_wire()))
        finally:
            self._starting.pop(name, None)

    def _what_to_start(
        self, message: control.StartActor
    ) -> tuple[type[Actor], tuple[Any, ...], dict[str, Any]]:
        if message.payload:
            with self._node.resolving():
                return payload.load(message.payload)
        module, _, qualname = message.class_path.partition(":")
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
        return found, tuple(self._wired(message.args)), self._wired(message.kwargs)

    def _wired(self, value: Any) -> Any:
        """The arguments with references in the place of their names."""
        if is_reference(value):
            return self._node.ref(value["ref"])
        if isinstance(value, dict):
            return {key: self._wired(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._wired(item) for item in value]
        return value

    async def _stop(self, name: str, reason: StopReason, grace_s: float) -> None:
        starting = self._starting.get(name)
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        if self._node.location(name) is not None:
            await self._node.stop_actor(name, reason, grace_s=grace_s)
        self._say(control.ActorStopped(name, self._incarnations.get(name, 0)))

    def _actor_failed(self, name: str, incarnation: int, error: BaseException) -> None:
        self._say(control.ActorFailed(name, incarnation, describe(error), _trace(error)))


def mailbox_from_wire(data: dict[str, Any] | None) -> MailboxPolicy | None:
    """The inverse of `mailbox_to_wire`."""
    return None if data is None else MailboxPolicy(**data | {"overflow": Overflow(data["overflow"])})


def mailbox_to_wire(policy: MailboxPolicy | None) -> dict[str, Any] | None:
    """A mailbox policy as plain data."""
    if policy is None:
        return None
    return {"messages": policy.messages, "bytes": policy.bytes, "overflow": policy.overflow.value}


def describe(error: BaseException) -> str:
    """An error in one line, which can be sent."""
    try:
        text = control.sendable(str(error)).partition("\n")[0]
    except Exception:  # its own __str__ is broken: that it happened must still be told
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _trace(error: BaseException) -> str:
    return control.sendable("".join(traceback.format_exception(error)))
