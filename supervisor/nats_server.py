"""A real nats-server of our own: on a free loopback port, with JetStream and a secret, gone when we are.

Three things keep it from outliving its owner: `stop`, the parent-death signal (see `tether`), and the mark in its
environment, by which the guardian and the next owner of the runtime directory find it. Its secret is in a
file that only its user can read, never on a command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Any

from .errors import NatsServerFailed, NatsServerMissing
from .guardian import VARIABLE
from .process import describe_exit
from .running import log_tail
from .tether import tethered

PROGRAM = "nats-server"
START_LIMIT_S = 15.0
STOP_GRACE_S = 5.0
PORT_PATIENCE_S = 5.0
"""How long a restart waits for its port, which somebody else may use as the source of a connection."""

LOOK_S = 0.01
TAKEN = "address already in use"


def find_binary(explicit: str | os.PathLike[str] | None = None) -> Path:
    """Return the nats-server to run: the explicit one, else the environment's, else the one on ``PATH``.

    Raises `NatsServerMissing`.
    """
    if explicit is not None:
        path = Path(explicit).absolute()
        if path.is_file() and os.access(path, os.X_OK):
            return path
        raise NatsServerMissing(str(path))
    own = Path(sysconfig.get_path("scripts"), PROGRAM)
    if own.is_file() and os.access(own, os.X_OK):
        return own
    if found := shutil.which(PROGRAM):
        return Path(found).absolute()
    raise NatsServerMissing()


class NatsServer:
    """One nats-server; start it on the thread that outlives it. Its port and its store survive a restart."""

    def __init__(
        self,
        directory: Path,
        *,
        binary: str | os.PathLike[str] | None = None,
        mark: str | None = None,
        token: str | None = None,
        jetstream: bool = True,
        sync_interval: str = "",
        max_payload_bytes: int = 0,
        extra_config: str = "",
    ) -> None:
        """Start nothing yet.

        ``directory`` is made (0700) if it is missing; everything of the server is in it. ``mark`` is its value
        of ``CALLBOARD_TREE``, by default ours. ``token`` is random by default, and "" asks clients for
        none. ``sync_interval`` ("always", "10s") is JetStream's, and ``max_payload_bytes`` the limit of one NATS
        message; both have the server's defaults. ``extra_config`` is text in its own language.
        """
        self.directory = directory
        self.token = secrets.token_hex(32) if token is None else token
        self.log = directory / "nats-server.log"
        self.store = directory / "jetstream"
        self._explicit = binary
        self._mark = os.environ.get(VARIABLE, "") if mark is None else mark
        self._jetstream, self._sync_interval = jetstream, sync_interval
        self._max_payload_bytes, self._extra_config = max_payload_bytes, extra_config
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._is_ready = False
        self._is_paused = False
        self._starts = 0
        self._ready_at_s = 0.0

    # -- what clients need

    @property
    def url(self) -> str:
        """Where it listens; empty before the first start. It stays the same when it is restarted."""
        return f"nats://127.0.0.1:{self._port}" if self._port else ""

    @property
    def port(self) -> int:
        """The port, or 0 before the first start."""
        return self._port

    @property
    def pid(self) -> int:
        """Its process id, or 0 while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def is_ready(self) -> bool:
        """True while it runs and takes connections."""
        return self._is_ready and not self._is_paused and self.pid != 0

    def settings(self) -> dict[str, Any]:
        """The fields of `NatsSettings` that lead a client here, those that would lead it elsewhere included."""
        return {
            "servers": (self.url,),
            "token": self.token,
            "username": "",
            "password": "",
            "nkey": "",
            "credentials_file": "",
            "tls_ca_cert_path": "",
            "tls_insecure": False,
            "tls_client_cert_path": "",
            "tls_client_key_path": "",
        }

    def statistics(self) -> dict[str, Any]:
        """What it is and does, as plain data without its secret."""
        return {
            "url": self.url,
            "pid": self.pid,
            "ready": self.is_ready,
            "paused": self._is_paused,
            "starts": self._starts,
            "uptime_s": time.monotonic() - self._ready_at_s if self.is_ready else 0.0,
            "log": str(self.log),
        }

    # -- life

    async def start(self) -> None:
        """Start it and return when it takes connections; nothing happens while it runs.

        Raises `NatsServerMissing`, or `NatsServerFailed` with the end of its log.
        """
        if self.pid:
            return
        binary = find_binary(self._explicit)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self._write_config()
        deadline = time.monotonic() + PORT_PATIENCE_S
        while True:
            log_start = self.log.stat().st_size if self.log.exists() else 0
            self._launch(binary, config)
            try:
                self._port = await self._ready()
                break
            except NatsServerFailed:
                is_taken = TAKEN in log_tail(self.log, log_start)
                if not (self._port and is_taken) or time.monotonic() > deadline:
                    raise
            except BaseException:
                await asyncio.shield(asyncio.ensure_future(self.kill()))
                raise
            await asyncio.sleep(0.1)
        self._starts += 1
        self._is_ready, self._ready_at_s = True, time.monotonic()

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End it, by SIGKILL after ``grace_s`` seconds; idempotent. Its directory stays."""
        if self._process is None:
            return
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self.exited()
        except TimeoutError:
            await self.kill()
        self._reap()

    async def kill(self) -> None:
        """End it by SIGKILL and return when it is gone."""
        self._signal(signal.SIGKILL)
        await self.exited()
        self._reap()

    async def restart(self) -> None:
        """Start it again on the same port with the same store; one that still runs is stopped first."""
        await self.stop()
        await self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing is answered. Returns when the last of its threads stands."""
        pid = self.pid
        if pid:
            self._signal(signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self._is_paused = True

    def resume(self) -> None:
        """Undo `pause`."""
        if self._is_paused:
            self._signal(signal.SIGCONT)
            self._is_paused = False

    async def exited(self) -> str:
        """Wait until its process is gone; returns in words how it ended."""
        process = self._process
        if process is None:
            return "not started"
        loop = asyncio.get_running_loop()
        if process.poll() is None and hasattr(os, "pidfd_open"):
            descriptor = os.pidfd_open(process.pid)
            gone = asyncio.Event()
            loop.add_reader(descriptor, gone.set)
            try:
                await gone.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        while process.poll() is None:  # noqa: ASYNC110 - where there is no descriptor of a process
            await asyncio.sleep(LOOK_S)
        return describe_exit(process.returncode)

    # -- parts

    def _write_config(self) -> Path:
        lines = [f"server_name: {json.dumps(f'callboard-{os.getpid()}')}"]
        if self.token:
            lines.append(f"authorization {{ token: {json.dumps(self.token)} }}")
        if self._jetstream:
            sync = f", sync_interval: {json.dumps(self._sync_interval)}" if self._sync_interval else ""
            lines.append(f"jetstream {{ store_dir: {json.dumps(str(self.store))}{sync} }}")
        if self._max_payload_bytes:
            lines.append(f"max_payload: {self._max_payload_bytes}")
        if self._extra_config:
            lines.append(self._extra_config)
        path = self.directory / "nats-server.conf"
        path.unlink(missing_ok=True)  # one with another mode would keep it
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join([*lines, ""]))
        return path

    def _launch(self, binary: Path, config: Path) -> None:
        for old in self.directory.glob("*.ports"):
            old.unlink(missing_ok=True)
        command = [str(binary), "-a", "127.0.0.1", "-p", str(self._port or -1), "-c", str(config)]
        command += ["--ports_file_dir", str(self.directory)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "DYN_"))}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                tethered(command),
                env=environment | {VARIABLE: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )

    async def _ready(self) -> int:
        """The port, as soon as it takes connections: it writes its ports file then."""
        assert self._process is not None
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            for path in self.directory.glob("*.ports"):
                with contextlib.suppress(OSError, ValueError, LookupError):  # half of it is written
                    return int(json.loads(path.read_bytes())["nats"][0].rpartition(":")[2])
            if self._process.poll() is not None:
                why = describe_exit(self._process.returncode)
                self._reap()
                raise NatsServerFailed(why, log_tail(self.log))
            if time.monotonic() > deadline:
                await self.kill()
                raise NatsServerFailed(
                    f"it takes no connections after {START_LIMIT_S:g} s", log_tail(self.log)
                )
            await asyncio.sleep(LOOK_S)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        self._is_ready = self._is_paused = False

    def __repr__(self) -> str:
        state = "paused" if self._is_paused else "ready" if self.is_ready else "down"
        return f"<NatsServer {self.url or 'not started yet'} {state}>"
