"""The runtime directory of one system: who owns it, where things are in it, and what a dead owner left.

Layout: ``lock`` (held by flock for as long as the supervisor lives, so the kernel lets go of it at any
death), ``state.json`` (pid, tree, namespace), ``admin.sock``, ``ipc/``, ``logs/<process>.log``, and
``nats/`` of an embedded nats-server.
A directory may be one that a user chose: only these names are ever removed, and nothing is taken that holds
something else.
"""

from __future__ import annotations

import asyncio
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

from callboard.transports.errors import CallboardError, ConfigError

from .config_keys import not_a_name
from .errors import AlreadyRunning, NotRunning
from .guardian import sweep_until_empty

SOCKET_PATH_LIMIT_BYTES = 107
"""The kernel's limit for the path of a unix socket (108 with the final zero)."""

NAMES = ("state.json.new", "admin.sock", "ipc", "logs", "nats", "state.json")
"""What a supervisor makes in its directory besides ``lock``; nothing else is ever removed from it."""

LOOK_S = 0.1
"""Whoever looks whether a directory is held holds the lock himself for much less than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerState:
    """What ``state.json`` says of the supervisor that wrote it."""

    pid: int
    tree: str
    namespace: str
    started_at_s: float
    made: bool
    """True if callboard made the directory itself, so that its last owner removes it."""

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
    looked, and `ConfigError` for what is no namespace, or with the choices if several run.
    """
    if namespace and (what := not_a_name(namespace)):
        raise ConfigError(f"namespace {what}")
    if explicit is not None or namespace is not None or environment.get("CALLBOARD_RUNTIME_DIR"):
        directory = directory_for(namespace or "", environment, explicit)
        _refuse_foreign(directory)
        if is_held(directory):
            return directory
        raise NotRunning(directory)
    running = running_directories(environment)
    if not running:
        raise NotRunning(base_directory(environment))
    if len(running) > 1:
        names = ", ".join(entry.name for entry in running)
        raise ConfigError(f"several systems run here: {names}; choose one with --namespace")
    return running[0]


def running_directories(environment: Mapping[str, str]) -> list[Path]:
    """Return the directories of all systems of this user that run in the usual place."""
    base = base_directory(environment)
    inside = base.iterdir() if _is_own_directory(base) else ()
    return sorted(entry for entry in inside if _is_own_directory(entry) and is_held(entry))


def is_held(directory: Path) -> bool:
    """True if a living supervisor owns the directory."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
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

    def __init__(self, path: Path, lock: int, *, made: bool) -> None:
        self.path = path
        self._lock = lock
        self._made = made
        self.admin_socket = path / "admin.sock"
        self.logs = path / "logs"
        self.ipc = path / "ipc"
        self.nats = path / "nats"

    @classmethod
    def claim(cls, path: Path, *, namespace: str, tree: str) -> RuntimeDirectory:
        """Take the directory over, killing and removing what a dead owner left in it.

        Raises `AlreadyRunning` if its owner lives, `ConfigError` if the path is too long for a unix socket,
        belongs to somebody else, is open to others, holds what is not callboard's, or cannot be made.
        """
        _check_length(path)
        try:
            made = _make_private(path)
            lock, made_again = _lock(path)
        except OSError as error:
            raise _cannot_be_made(path, error) from error
        directory = cls(path, lock, made=made or made_again or path.parent == base_directory(os.environ))
        try:
            directory._take_over(namespace, tree)
        except BaseException as error:  # else the lock is held for as long as this process lives
            directory.release()
            if isinstance(error, OSError):
                raise _cannot_be_made(path, error) from error
            raise
        return directory

    def _take_over(self, namespace: str, tree: str) -> None:
        before = OwnerState.read(self.path)
        if before is not None:
            self._made = self._made or before.made
            sweep_until_empty(before.tree)
        for name in NAMES:
            _remove(self.path / name)
        self.logs.mkdir(mode=0o700)
        self.ipc.mkdir(mode=0o700)
        state = OwnerState(
            pid=os.getpid(), tree=tree, namespace=namespace, started_at_s=time.time(), made=self._made
        )
        fresh = self.path / "state.json.new"
        fresh.write_text(json.dumps({name: getattr(state, name) for name in OwnerState.__slots__}))
        fresh.replace(self.path / "state.json")

    def log_path(self, process: str) -> Path:
        """Where the output of a process goes, every incarnation of it."""
        return self.logs / f"{process}.log"

    def release(self) -> None:
        """Give the directory up: remove what callboard made, and itself unless a user made it. Idempotent."""
        if self._lock < 0:
            return
        # The lock file last: before that, nobody can claim a directory that is being emptied.
        with suppress(OSError):
            *others, state = NAMES
            for name in others:
                _remove(self.path / name)
            # With what a stranger put there, the directory stays, and must be known as ours next time.
            if not set(os.listdir(self.path)) - {"lock", state}:
                _remove(self.path / state)
                _remove(self.path / "lock")
                if self._made:
                    self.path.rmdir()
        os.close(self._lock)
        self._lock = -1

    def __repr__(self) -> str:
        return f"<RuntimeDirectory {self.path} {'released' if self._lock < 0 else 'owned'}>"


async def claim_aside(namespace: str, tree: str, explicit: Path | None = None) -> RuntimeDirectory:
    """Do in a thread what `RuntimeDirectory.claim` does for `directory_for`; cancelled, it takes nothing."""
    path = directory_for(namespace, os.environ, explicit)
    claim = asyncio.to_thread(RuntimeDirectory.claim, path, namespace=namespace, tree=tree)
    work = asyncio.ensure_future(claim)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:  # the thread goes on; what it claims must be released
        with suppress(CallboardError):
            await asyncio.to_thread((await work).release)
        raise


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


def _cannot_be_made(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the runtime directory {path} cannot be made: {error.strerror}; choose another with --runtime-dir"
    )


def _is_own_directory(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _refuse_foreign(path: Path) -> None:
    """Raise `ConfigError` if somebody else owns the directory, or the one that it is in."""
    for directory, owners in ((path, (os.getuid(),)), (path.parent, (0, os.getuid()))):
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            # The parent may be a link: who owns what it leads to can replace the directory.
            found = directory.lstat() if directory is path else directory.stat()
            if found.st_uid not in owners:
                raise ConfigError(
                    f"the runtime directory {path} is not to be trusted: {directory} belongs to user"
                    f" {found.st_uid}, not to you; choose another with --runtime-dir"
                )


def _make_private(path: Path) -> bool:
    """Make the directory, or see that the one that is there can be taken; returns True if it was made."""
    made = False
    for directory in (path.parent, path):
        if not os.path.lexists(directory):
            with suppress(FileExistsError):  # somebody else who claims it was faster
                directory.mkdir(mode=0o700, parents=True)
                made = directory is path
    _refuse_foreign(path)
    try:
        found = path.lstat()
    except FileNotFoundError:  # its last owner has just removed it: `_lock` makes it once more
        return False
    if stat.S_ISLNK(found.st_mode):
        raise ConfigError(
            f"the runtime directory {path} is a symbolic link; give the directory it leads to with"
            " --runtime-dir"
        )
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path} is not a directory; choose another with --runtime-dir")
    parent = path.parent.stat()
    if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
        raise ConfigError(f"anybody can replace the runtime directory {path}: {path.parent} is open to all")
    if found.st_mode & 0o077:
        raise ConfigError(
            f"the runtime directory {path} is open to others (mode {stat.S_IMODE(found.st_mode):o});"
            f" chmod 700 it, or choose another with --runtime-dir"
        )
    if not any(_may_be_taken(path) for _ in range(3)):  # a look while its owner leaves may find half of it
        raise ConfigError(
            f"the runtime directory {path} is not empty and not one of callboard's; choose an empty one, or"
            " one that does not exist yet, with --runtime-dir"
        )
    return made


def _may_be_taken(path: Path) -> bool:
    """True if the directory is empty or was made by a supervisor of this user."""
    try:
        names = set(os.listdir(path))
        if not names:
            return True
        lock = (path / "lock").lstat()
    except FileNotFoundError:
        return not path.exists()
    if not stat.S_ISREG(lock.st_mode) or lock.st_uid != os.getuid():
        return False
    return names <= {"lock", *NAMES} or OwnerState.read(path) is not None


def _lock(path: Path) -> tuple[int, bool]:
    """Return the lock, and True if the directory had to be made once more."""
    made = False
    patience = time.monotonic() + LOOK_S
    while True:
        try:
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # its last owner has just removed the directory
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = True
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
                return descriptor, made
        os.close(descriptor)
        path.mkdir(mode=0o700, exist_ok=True)
        made = True
