"""What a script or a test holds: a running system of processes, and references to the actors in it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from callboard.actors.actor import Actor
from callboard.actors.node import Node
from callboard.actors.policy import MailboxPolicy
from callboard.actors.ref import Ref
from callboard.actors.replay import Replay
from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import ConfigError
from callboard.transports.settings import NetworkSettings

from . import payload, stopping
from .admin import AdminServer
from .changes import Changes, told
from .config import load
from .config_keys import not_a_name
from .config_network import overlay, with_planes
from .connection import Connection
from .embedded import EmbeddedNats
from .errors import StartInterrupted, SupervisionError, SystemFailed, UnknownPlace
from .placement import place
from .replaying import replay
from .roster import Roster
from .rundir import RuntimeDirectory, claim_aside
from .running import log_tail
from .scaling import scale
from .slots import fetch_counters, not_ready
from .spawning import check_spawn, plan_spawn, snake_case
from .spec import Config, Limits, RestartPolicy
from .status import Announcement, State, SystemStatus, own_versions
from .supervisor import Supervisor, SupervisorOptions

A = TypeVar("A", bound=Actor)

log = logging.getLogger("callboard.supervisor")

STATISTICS_LIMIT_S = 0.5
KILL_NOTICE_S = 5.0

_numbers = itertools.count(1)


class System:
    """A system of actors in processes of its own, supervised by this process; an async context manager.

    >>> async with System() as system:                                        # doctest: +SKIP
    ...     workers = await system.spawn(Worker, "tiny", replicas=2, processes=2)
    ...     print(await workers.ask(Worker.load))

    Everything happens on the event loop that runs `start`. ``plane`` and ``event_plane`` override ``settings``, which
    come from the environment by default. Without a ``namespace`` it is one of its own. With ``nats_embedded``
    (true, or the path of a program) a nats-server runs beside it, and the plane is nats unless said otherwise.
    """

    def __init__(
        self,
        *,
        namespace: str | None = None,
        plane: str | None = None,
        event_plane: str | None = None,
        settings: NetworkSettings | None = None,
        runtime_dir: str | os.PathLike[str] | None = None,
        limits: Limits | None = None,
        nats_embedded: bool | str | os.PathLike[str] = False,
    ) -> None:
        """Start nothing yet. Raises `ConfigError`."""
        if namespace and (what := not_a_name(namespace)):  # it becomes a directory, and a part of subjects
            raise ConfigError(f"namespace {what}")
        plane = "nats" if nats_embedded and plane is None else plane
        settings = with_planes(settings or NetworkSettings.from_env(os.environ), plane, event_plane)
        self._config = Config(
            namespace=namespace or f"script-{os.getpid()}-{next(_numbers)}",
            actors=(),
            processes=(),
            network=settings,
            event_plane=settings.event_plane,
            limits=limits or Limits(),
        )
        self._runtime_dir = Path(runtime_dir) if runtime_dir is not None else None
        self._embed = nats_embedded
        self._is_passing = namespace is None and not nats_embedded
        self._nats: EmbeddedNats | None = None
        self._state = State.STOPPED
        self._started_at_s = 0.0
        self._failure: SystemFailed | None = None
        self._directory: RuntimeDirectory | None = None
        self._supervisor: Supervisor | None = None
        self._stop: asyncio.Task[None] | None = None
        self._preparing = asyncio.Lock()
        self._changes = Changes()
        self.on_event: Callable[[str], None] | None = None
        """Told in one line what people should know: deaths, restarts, stalls."""
        self.on_change: Callable[[], None] | None = None
        """Told that `status` would say something else now."""

    @classmethod
    def from_config(
        cls,
        config: str | os.PathLike[str] | Config,
        *,
        plane: str | None = None,
        event_plane: str | None = None,
        namespace: str | None = None,
        runtime_dir: str | os.PathLike[str] | None = None,
        nats_embedded: bool | str | os.PathLike[str] = False,
    ) -> Self:
        """Return a system that a config file describes; nothing is started. Raises `ConfigError`."""
        plane = "nats" if nats_embedded and plane is None else plane
        if not isinstance(config, Config):
            config = load(config, plane=plane, event_plane=event_plane, namespace=namespace)
        config = overlay(config, namespace, plane, event_plane)
        system = cls(namespace=config.namespace, settings=config.network, runtime_dir=runtime_dir)
        system._config, system._embed, system._is_passing = config, nats_embedded, False
        return system

    @staticmethod
    async def connect(
        *, namespace: str | None = None, runtime_dir: str | os.PathLike[str] | None = None
    ) -> Connection:
        """Connect to a running system of this user and host. Raises `NotRunning`, `ConfigError`."""
        return await Connection.open(namespace=namespace, runtime_dir=runtime_dir)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- life

    async def start(self) -> None:
        """Start every process and actor of the config; returns when all are ready.

        Raises `StartupFailed` with the traceback of what did not start, `AlreadyRunning`, `ConfigError`, and
        `StartInterrupted` if it is stopped meanwhile. Then what was ready is stopped, as `stop` does it, and
        nothing is left.
        """
        if self._state is not State.STOPPED or self._stop is not None:
            raise SupervisionError(f"this system is {self._state.value}; make another one")
        self._state = State.STARTING
        self._started_at_s = time.time()
        try:
            async with self._preparing:
                supervisor = await self._prepare()
            config = self._config
            await supervisor.launch(place(config.actors, config.processes, namespace=config.namespace))
            if self._stop is not None:
                raise StartInterrupted()
        except BaseException as error:
            await self.stop()
            if self._failure is not None and isinstance(error, StartInterrupted):
                raise self._failure from None
            raise
        self._state = State.READY
        self._changed()

    async def _prepare(self) -> Supervisor:
        """Everything but the processes; a stop waits for the end of this."""
        config, tree = self._config, secrets.token_hex(6)
        self._directory = await claim_aside(config.namespace, tree, self._runtime_dir)
        ipc = config.network.ipc_directory or str(self._directory.ipc)
        settings = replace(config.network, ipc_directory=ipc, event_plane=config.event_plane)
        if self._embed:
            self._nats = EmbeddedNats(self._directory.nats, tree, self._embed, self._event, self._failed)
            settings = await self._nats.start(settings)
        self._node = Node(
            name="supervisor", namespace=config.namespace, settings=settings, listen=False, supervised=True
        )
        self._roster = Roster()
        options = SupervisorOptions(
            namespace=config.namespace,
            tree=tree,
            settings=settings,
            directory=self._directory,
            limits=config.limits,
            import_paths=config.import_paths,
        )
        supervisor = self._supervisor = Supervisor(options, self._roster)
        supervisor.on_event = self._event
        supervisor.on_change = self._changed
        supervisor.on_failed = self._failed
        await self._node.start()
        self._roster.attach(self._node)
        self._admin = AdminServer(
            namespace=config.namespace,
            settings=settings,
            roster=self._roster,
            status=self.fetch_status,
            stop=self._stop_soon,
        )
        await self._admin.start(self._directory.admin_socket)
        return supervisor

    async def stop(self, grace_s: float | None = None) -> None:
        """Drain and stop actors in reverse start order, then the processes; idempotent.

        What has not ended after ``grace_s`` seconds (by default what the config says) is killed; 0 kills at
        once, also when a stop is under way.
        """
        self._stop_soon(grace_s)
        assert self._stop is not None
        await asyncio.shield(self._stop)

    async def _stop_now(self, grace_s: float) -> None:
        self._state = State.STOPPING
        self._changed()
        try:
            async with self._preparing:
                pass
            if self._supervisor is not None:
                await stopping.stop(self._supervisor, grace_s)
                if hasattr(self, "_admin"):
                    await self._admin.close()
                await self._node.close(grace_s=0)
        finally:
            if self._nats is not None:  # before the guardian looks for the last time, which would kill it
                await self._nats.stop()
            if self._supervisor is not None:
                await self._supervisor.close()
            if self._directory is not None:
                await asyncio.to_thread(self._directory.release)
            self._state = State.FAILED if self._failure else State.STOPPED
            self._changed()

    def kill_all(self) -> None:
        """Kill every process now; for a second Ctrl-C, while `stop` goes on."""
        if self._supervisor is not None:
            stopping.kill(self._supervisor)

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until every actor is ready (again). Raises `TimeoutError`, `SystemFailed`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not_ready := self._not_ready():
                    await self._changes.wait()
        except TimeoutError:
            raise TimeoutError(f"after {timeout_s:g} s not ready: {', '.join(not_ready)}") from None

    async def wait_stopped(self) -> None:
        """Wait until the system is stopped; raises `SystemFailed` if that was because of a failure."""
        while self._stop is None:
            await self._changes.wait()
        await asyncio.shield(self._stop)
        if self._failure is not None:
            raise self._failure

    def _not_ready(self) -> list[str]:
        return not_ready(self._live().slots.values())

    def _changed(self) -> None:
        self._changes.notify()
        if self.on_change is not None:
            told(self.on_change)

    def _event(self, text: str) -> None:
        if self.on_event is not None:
            told(self.on_event, text)
        else:
            log.info("%s", text)

    def _failed(self, place: str, reason: str) -> None:
        if self._failure is None and self._stop is None:
            tail = ""
            with suppress(UnknownPlace):  # it may be the supervisor itself
                tail = log_tail(Path(self._slot(place).log))
            self._failure = SystemFailed(place, reason, tail)
            self._stop_soon()

    def _stop_soon(self, grace_s: float | None = None) -> float:
        grace_s = self._config.limits.stop_grace_s if grace_s is None else grace_s
        if self._stop is None:
            self._stop = asyncio.get_running_loop().create_task(self._stop_now(grace_s))
        elif grace_s <= 0:
            self.kill_all()
        self._changed()
        return grace_s

    # -- actors

    async def spawn(
        self,
        cls: type[A],
        *args: Any,
        name: str | None = None,
        replicas: int = 1,
        processes: int = 1,
        env: Mapping[str, str] | None = None,
        restart: RestartPolicy | None = None,
        mailbox: MailboxPolicy | None = None,
        durable: DurablePolicy | bool = False,
        **kwargs: Any,
    ) -> Ref[A]:
        """Start ``replicas`` instances of an actor in ``processes`` new processes, and return the reference.

        The reference is to the component: a message goes to one of its instances. Arguments may hold references and
        whatever cloudpickle carries. The name is the class's in snake case by default. With ``durable`` tells to it are
        stored and delivered until they were handled, which needs the nats plane.

        Raises `StartupFailed` with the traceback, `ConfigError` for a name that is taken or counts that do
        not fit, `TypeError` if the arguments cannot be sent, `SystemFailed`.
        """
        supervisor = self._live()
        name = name or snake_case(getattr(cls, "__name__", ""))
        taken = {name for slot in supervisor.slots.values() for name in slot.names()}
        check_spawn(cls, name, replicas, processes, taken, passing=bool(durable) and self._is_passing)
        plans = plan_spawn(
            cls,
            name,
            payload.dump(cls, args, kwargs),
            namespace=self._config.namespace,
            replicas=replicas,
            processes=processes,
            env=env,
            restart=restart,
            mailbox=mailbox,
            durable=durable,
        )
        try:
            await supervisor.launch(plans)
        except BaseException:
            if self._stop is None:
                await supervisor.discard(plan.name for plan in plans)
            raise
        return self.ref(name, cls)

    async def scale(self, component: str, replicas: int, *, grace_s: float | None = None) -> None:
        """Start or drain instances until there are ``replicas``; see `callboard.supervisor.scaling.scale`."""
        grace_s = self._config.limits.stop_grace_s if grace_s is None else grace_s
        await scale(self._live(), component, replicas, grace_s)

    def _live(self) -> Supervisor:
        if self._supervisor is None or self._stop is not None:
            why = f"the system is {self._state.value}; start it first: async with System()"
            raise self._failure or SupervisionError(why)
        return self._supervisor

    def ref(self, name: str, cls: type[A] = Actor) -> Ref[A]:  # type: ignore[assignment]
        """Return a reference to a component (``worker``) or an instance (``worker.0``)."""
        return self._node.ref(name, cls)

    async def replay(self, component: str, **options: Any) -> Replay:
        """Have a durable component handle its stored messages again; see `callboard.supervisor.replaying.replay`."""
        return await replay(self._node, component, **options)

    # -- processes

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process, or to the process of an actor.

        After SIGKILL it returns when the death was noticed. Raises `UnknownPlace`.
        """
        running = self._slot(name).running
        if running is None:
            return
        running.process.signal(number)
        if number is signal.SIGKILL:
            await running.gone(KILL_NOTICE_S)

    async def pause(self, name: str) -> None:
        """Freeze a process, or the process of an actor. Raises `UnknownPlace`."""
        await self.kill(name, signal.SIGSTOP)

    async def resume(self, name: str) -> None:
        """Undo `pause`. Raises `UnknownPlace`."""
        await self.kill(name, signal.SIGCONT)

    def logs(self, name: str) -> str:
        """What a process, or the process of an actor, has written so far. Raises `UnknownPlace`."""
        path = Path(self._slot(name).log)
        return path.read_text(errors="replace") if path.exists() else ""

    def _slot(self, name: str) -> Any:
        if self._supervisor is None:
            raise SupervisionError("the system was not started")
        return self._supervisor.slot(name)

    # -- what it looks like

    @property
    def namespace(self) -> str:
        """Namespace of the system."""
        return self._config.namespace

    @property
    def node(self) -> Node:
        """The node of this process, which holds the references."""
        return self._node

    @property
    def directory(self) -> Path | None:
        """The runtime directory, while there is one."""
        return self._directory.path if self._directory is not None else None

    @property
    def failure(self) -> SystemFailed | None:
        """Why the system stopped by itself, if it did."""
        return self._failure

    @property
    def announcements(self) -> list[Announcement]:
        """What actors announced, for example URLs."""
        makers = [maker for maker in (self._nats, self._supervisor) if maker is not None]
        return [announcement for maker in makers for announcement in maker.announcements]

    def status(self) -> SystemStatus:
        """What the system looks like now; the counters of actors are those of the last `fetch_status`."""
        config, supervisor = self._config, self._supervisor
        return SystemStatus(
            namespace=config.namespace,
            plane=config.network.request_plane,
            event_plane=config.event_plane,
            insecure=config.network.insecure,
            pid=os.getpid(),
            state=self._state,
            started_at_s=self._started_at_s,
            directory=str(self.directory or ""),
            processes=tuple(slot.status() for slot in (supervisor.slots.values() if supervisor else ())),
            announcements=tuple(self.announcements),
            failure=str(self._failure or ""),
            **own_versions(),
        )

    async def fetch_status(self) -> SystemStatus:
        """Ask every process for the counters of its actors, then return `status`."""
        if self._supervisor is not None:
            await fetch_counters(self._supervisor.slots.values(), STATISTICS_LIMIT_S)
        return self.status()

    def __repr__(self) -> str:
        return f"<System {self.namespace} {self._state.value}, {len(self.status().processes)} processes>"
