"""The runtime directory of one system: who owns it, where things are in it, and what a dead owner left.

Layout: ``lock`` (held by flock for as long as the supervisor lives, so the kernel lets go of it at any
death), ``state.json`` (pid, tree, namespace), ``admin.sock``, ``ipc/`` and ``logs/<process>.log``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from callboard.transports.errors import ConfigError

from .errors import AlreadyRunning, NotRunning
from .guardian import sweep_until_empty

SOCKET_PATH_LIMIT_BYTES = 107
"""The kernel's limit for the path of a unix socket (108 with the final zero)."""

LOOK_S = 0.1
"""Whoever looks whether a directory is held holds the lock himself for much less than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerState:
    """What ``state.json`` says of the supervisor that wrote it."""

    pid: int
    tree: str
    namespace: str
    started_at_s: float

    @classmethod
    def read(cls, directory: Path) -> OwnerState | None:
        """Return the state, or None if there is none that can be read."""
        try:
            data = json.loads((directory / "state.json").read_bytes())
            return cls(**{name: data[name] for name in cls.__slots__})
        except (OSError, ValueError, KeyError, TypeError):
            return None


def base_directory(environment: Mapping[str, str]) -> Path:
    """Where the directories of all namespaces are: below ``XDG_RUNTIME_DIR``, else below /tmp by user id."""
    session = environment.get("XDG_RUNTIME_DIR", "")
    if session and os.access(session, os.W_OK):
        return Path(session, "callboard")
    return Path(f"/tmp/callboard-{os.getuid()}")


def directory_for(namespace: str, environment: Mapping[str, str], explicit: Path | None = None) -> Path:
    """Return the runtime directory: the explicit one, else ``CALLBOARD_RUNTIME_DIR``, else by namespace."""
    if explicit is not None:
        return explicit.absolute()
    if chosen := environment.get("CALLBOARD_RUNTIME_DIR"):
        return Path(chosen).absolute()
    return base_directory(environment) / namespace


def find_running(environment: Mapping[str, str], namespace: str | None, explicit: Path | None) -> Path:
    """Return the directory of a running system.

    Without a namespace or a directory there must be exactly one. Raises `NotRunning`, which says where was
    looked, and `ConfigError` with the choices if several run.
    """
    if explicit is not None or namespace is not None or environment.get("CALLBOARD_RUNTIME_DIR"):
        directory = directory_for(namespace or "", environment, explicit)
        if is_held(directory):
            return directory
        raise NotRunning(directory)
    base = base_directory(environment)
    running = sorted(entry for entry in base.iterdir() if is_held(entry)) if base.is_dir() else []
    if not running:
        raise NotRunning(base)
    if len(running) > 1:
        names = ", ".join(entry.name for entry in running)
        raise ConfigError(f"several systems run here: {names}; choose one with --namespace")
    return running[0]


def is_held(directory: Path) -> bool:
    """True if a living supervisor owns the directory."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class RuntimeDirectory:
    """A runtime directory that this process owns; see the module."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self.admin_socket = path / "admin.sock"
        self.logs = path / "logs"
        self.ipc = path / "ipc"

    @classmethod
    def claim(cls, path: Path, *, namespace: str, tree: str) -> RuntimeDirectory:
        """Take the directory over, killing and removing what a dead owner left in it.

        Raises `AlreadyRunning` if its owner lives, `ConfigError` if the path is too long for a unix socket,
        belongs to somebody else, or cannot be made.
        """
        _check_length(path)
        _make_private(path)
        lock = _lock(path)
        directory = cls(path, lock)
        before = OwnerState.read(path)
        if before is not None:
            sweep_until_empty(before.tree)
        directory._clear()
        directory.logs.mkdir(mode=0o700)
        directory.ipc.mkdir(mode=0o700)
        state = OwnerState(pid=os.getpid(), tree=tree, namespace=namespace, started_at_s=time.time())
        fresh = path / "state.json.new"
        fresh.write_text(json.dumps({name: getattr(state, name) for name in OwnerState.__slots__}))
        fresh.replace(path / "state.json")
        return directory

    def log_path(self, process: str) -> Path:
        """Where the output of a process goes, every incarnation of it."""
        return self.logs / f"{process}.log"

    def release(self, *, keep: bool = False) -> None:
        """Give the directory up and remove it; with ``keep`` the logs stay. Idempotent."""
        if self._lock < 0:
            return
        if keep:
            for entry in ("state.json", "admin.sock", "ipc"):
                _remove(self.path / entry)
        else:
            # The lock file last: before that, nobody can claim a directory that is being emptied.
            with suppress(OSError):
                for inside in self.path.iterdir():
                    if inside.name != "lock":
                        _remove(inside)
                _remove(self.path / "lock")
                self.path.rmdir()
        os.close(self._lock)
        self._lock = -1

    def _clear(self) -> None:
        for entry in ("state.json", "admin.sock", "ipc", "logs"):
            _remove(self.path / entry)

    def __repr__(self) -> str:
        return f"<RuntimeDirectory {self.path} {'released' if self._lock < 0 else 'owned'}>"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _check_length(path: Path) -> None:
    length = len(os.fsencode(path / "admin.sock"))
    if length > SOCKET_PATH_LIMIT_BYTES:
        raise ConfigError(
            f"the runtime directory {path} is too long: {length} bytes with the name of the socket in it, the"
            f" limit is {SOCKET_PATH_LIMIT_BYTES}; choose a shorter one with --runtime-dir"
        )


def _make_private(path: Path) -> None:
    try:
        for directory in (path.parent, path):
            if not directory.exists():
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"the runtime directory {path} belongs to user {found.st_uid}, not to you")
        parent = path.parent.stat()
        if parent.st_uid not in (0, os.getuid()):
            raise ConfigError(
                f"user {parent.st_uid} can replace the runtime directory {path}: {path.parent} belongs to him"
            )
        if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
            raise ConfigError(
                f"anybody can replace the runtime directory {path}: {path.parent} is open to all"
            )
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"the runtime directory {path} cannot be made: {error.strerror};"
            " choose another with --runtime-dir"
        ) from error


def _lock(path: Path) -> int:
    patience = time.monotonic() + LOOK_S
    while True:
        try:
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # its last owner has just removed the directory
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() < patience:  # perhaps only somebody who looks, see `is_held`
                time.sleep(0.01)
                continue
            state = OwnerState.read(path)
            raise AlreadyRunning(path, state.pid if state else 0) from None
        # Its last owner may have removed the directory between our open and our lock.
        with suppress(FileNotFoundError):
            if os.stat(path / "lock").st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
        path.mkdir(mode=0o700, exist_ok=True)
