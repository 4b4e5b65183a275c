"""One child process: how it is spawned, how its death is seen, and how all of it is killed.

Children come from multiprocessing's ``spawn`` start method. Its launcher is replaced by one that passes
what ``spawn`` has no option for: environment, session, log file and standard input are in place before the
child's interpreter runs, so that even a crash during its start is logged and a Ctrl-C never reaches it. Two
things are left out on purpose: the re-import of ``__main__`` (the child does it only for a class that
lives there) and the shared resource tracker (a child that needs one starts its own).
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import popen_spawn_posix, reduction, spawn, util
from multiprocessing.context import SpawnProcess, set_spawning_popen
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


@dataclass(frozen=True, slots=True)
class MainModule:
    """Where the script's ``__main__`` can be imported from, as ``spawn`` finds it; empty if nowhere."""

    name: str = ""
    path: str = ""

    @classmethod
    def of_this_process(cls) -> MainModule:
        """Describe the running script; a package's ``__main__`` and an interactive session have none."""
        data = spawn.get_preparation_data("")
        name = data.get("init_main_from_name", "")
        if name == "__main__" or name.endswith(".__main__"):
            name = ""
        return cls(name, data.get("init_main_from_path", ""))

    def restore(self) -> None:
        """In the child: import the script as ``__mp_main__`` and let ``__main__`` name it too."""
        if self.name or self.path:
            key = "init_main_from_name" if self.name else "init_main_from_path"
            spawn.prepare({key: self.name or self.path})


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a child finds when it starts: its whole environment, and the file its output goes to."""

    environment: Mapping[str, str]
    log_path: Path


class _Launcher(popen_spawn_posix.Popen):
    """``spawn``'s launcher, with `Launch`."""

    _fds: list[int]

    def _launch(self, process_obj: _SpawnedProcess) -> None:
        import subprocess

        preparation = spawn.get_preparation_data(process_obj.name)
        preparation.pop("init_main_from_name", None)
        preparation.pop("init_main_from_path", None)
        payload = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(preparation, payload)
            reduction.dump(process_obj, payload)
        finally:
            set_spawning_popen(None)
        launch = process_obj.launch
        assert launch is not None
        sentinel, child_sentinel = os.pipe()
        child_payload, parent_payload = os.pipe()
        try:
            with launch.log_path.open("ab") as log:
                child = subprocess.Popen(
                    spawn.get_command_line(tracker_fd=None, pipe_handle=child_payload),
                    executable=spawn.get_executable(),
                    env=dict(launch.environment),
                    pass_fds=[*self._fds, child_payload, child_sentinel],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self.pid = child.pid
            # multiprocessing reaps this child; subprocess must not warn about it or wait for it.
            child.returncode = 0
            self.sentinel = sentinel
            # A child that is dead already is reported by its descriptor, like every other death.
            with contextlib.suppress(BrokenPipeError), open(parent_payload, "wb", closefd=False) as pipe:
                pipe.write(payload.getbuffer())
        except BaseException:
            os.close(sentinel)
            raise
        finally:
            for descriptor in (child_payload, parent_payload, child_sentinel):
                os.close(descriptor)
        self.finalizer = util.Finalize(self, os.close, (sentinel,))


class _SpawnedProcess(SpawnProcess):
    launch: Launch | None = None

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _Launcher(process_obj)

    def __getstate__(self) -> dict[str, Any]:
        # The environment is in place already when the child unpickles this.
        return {**self.__dict__, "launch": None}


_alive: weakref.WeakSet[Process] = weakref.WeakSet()


class Process:
    """A running child and everything in its session.

    The one who spawns must be the main thread where the parent-death signal is wanted: it fires when the
    spawning thread ends.
    """

    def __init__(
        self, name: str, target: Callable[..., object], args: tuple[Any, ...], launch: Launch
    ) -> None:
        """Spawn ``target(*args)``; raises `OSError` if the process or its log file cannot be made."""
        self._process = _SpawnedProcess(name=name, target=target, args=args)
        self._process.launch = launch
        self._process.start()
        pid = self._process.pid
        assert pid is not None
        self.name = name
        self.pid = pid
        self._descriptor = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else os.dup(self._process.sentinel)
        self._loop: asyncio.AbstractEventLoop | None = None
        _alive.add(self)

    @property
    def exit_code(self) -> int | None:
        """None while it runs (or when a stranger reaped it); negative for the signal that killed it."""
        return self._process.exitcode

    @property
    def exit_reason(self) -> str:
        """The exit code in words: ``killed by SIGKILL``, ``exited with code 1``."""
        return describe_exit(self.exit_code)

    def watch(self, loop: asyncio.AbstractEventLoop, exited: Callable[[], None]) -> None:
        """Call ``exited`` once on ``loop``, the moment the process is gone; it is reaped by then."""
        self._loop = loop
        loop.add_reader(self._descriptor, self._exited, exited)

    def _exited(self, exited: Callable[[], None]) -> None:
        if self.exit_code is None:
            self._process.join(timeout=1.0)
        self._unwatch()
        exited()

    def _unwatch(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the child's group; nothing happens if none is left."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def close(self) -> None:
        """Let go of an exited process; raises `ValueError` if it still runs."""
        self._unwatch()
        self._process.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        _alive.discard(self)

    def __repr__(self) -> str:
        return f"<Process {self.name} pid {self.pid}>"


def describe_exit(code: int | None) -> str:
    """Say in words how a process ended; ``code`` as in `Process.exit_code`."""
    if code is None:
        return "gone, exit code unknown"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _kill_what_is_left() -> None:
    """multiprocessing waits at exit for every child, for ever if its supervisor was never closed."""
    for process in list(_alive):
        if process.exit_code is None:  # the id of one that was reaped may be a stranger's by now
            process.signal(signal.SIGKILL)


atexit.register(_kill_what_is_left)
