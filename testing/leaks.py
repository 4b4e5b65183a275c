"""What a test left behind: a look at the world before, a look after, and the difference by name.

`difference` and `Item` are plain data; everything that asks the operating system is below `look`. Where there
is no /proc (not Linux) processes and descriptors are not seen.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import count
from pathlib import Path

from callboard.supervisor.guardian import VARIABLE

SETTLE_S = 3.0
"""How long a test's leavings may take to go by themselves (the kernel, a thread on its way out)."""

LOOP_OWNED = ("/dev/null", "anon_inode:[io_uring]")
"""Descriptors that libuv opens when it first listens or reads, and keeps as long as its loop."""

FULL_EVERY = 10
"""Looks for what is left, of which one follows a collection of all garbage and the others of the youngest."""

SEGMENT = "/memfd:callboard"
"""Shared memory of a link: mapped here, it has a descriptor as long as its link is up or a view of it is held."""

SPARED_PROCESSES: set[int] = set()
"""Process ids that belong to the whole test run, such as its nats-server."""


class Kind(Enum):
    """What can be left behind."""

    PROCESS = "process"
    DESCRIPTOR = "descriptor"
    THREAD = "thread"
    TASK = "task"
    SEGMENT = "shared memory"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that exists; ``key`` is its identity, ``text`` says what it is."""

    kind: Kind
    key: object
    text: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.text}"


Snapshot = frozenset[Item]


def difference(before: Snapshot, after: Snapshot) -> list[Item]:
    """Return what is in ``after`` only, by kind and name."""
    return sorted(after - before, key=str)


def look(*, token: str = "", directory: Path | None = None) -> Snapshot:
    """Return what exists now: of this process, of the processes marked with ``token``, below ``directory``.

    ``token`` is an element of the mark in the environment variable ``CALLBOARD_TREE``.
    """
    _start_reclaimer()
    return frozenset(
        (
            *_processes(token),
            *_descriptors(),
            *_threads(),
            *_tasks(),
            *_segments(),
            *(_files(directory) if directory else ()),
        )
    )


def look_before(*, token: str = "", directory: Path | None = None) -> Snapshot:
    """Do what `look` does, and set aside what exists until `settled` has ended.

    To collect it all after each test took half of the time of a suite that has imported large libraries.
    """
    gc.freeze()
    return look(token=token, directory=directory)


async def settled(
    before: Snapshot, look_again: Callable[[], Snapshot], *, limit_s: float | None = None
) -> list[Item]:
    """Return what ``look_again`` finds beyond ``before`` once that is nothing, or after ``limit_s``.

    The limit is `SETTLE_S` if none is given.
    """
    deadline = time.monotonic() + (SETTLE_S if limit_s is None else limit_s)
    try:
        for number in count():
            is_last = time.monotonic() > deadline
            if is_last or number % FULL_EVERY == 1:  # what is left may be held by what is older
                gc.unfreeze()
            gc.collect()
            gc.freeze()
            left = difference(before, look_again())
            in_use = _in_use([item for item in left if item.kind is Kind.SEGMENT])
            left = [item for item in left if item not in in_use]
            if not left or is_last:
                break
            await asyncio.sleep(0.02)
    finally:
        gc.unfreeze()
    return [_explained(item) for item in left]


@lru_cache(maxsize=1)
def _start_reclaimer() -> None:
    """What starts with the first large message and stays as long as the process is nobody's leak."""
    from callboard.transports.zmq_sockets import start_reclaimer

    start_reclaimer()
    # Its threads name themselves, on a busy machine later than the first look: it would not know them then.
    deadline = time.monotonic() + SETTLE_S
    names = {"ZMQbg/Reaper", "ZMQbg/IO/0"}
    while _numbers("/proc/self/task") and not names <= set(_native_threads().values()):
        if time.monotonic() > deadline:
            return
        time.sleep(0.001)


def _processes(token: str) -> Iterator[Item]:
    """Own children (a zombie too), and whatever carries the mark."""
    own = os.getpid()
    for pid in _numbers("/proc"):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            marked = bool(token) and pid != own and _is_marked(pid, token)
            spared = pid == _tracker_pid() or pid in SPARED_PROCESSES
            if (int(fields[1]) == own or marked) and not spared:
                yield Item(Kind.PROCESS, (pid, fields[19]), f"pid {pid} {_command(pid, fields[0])}")
        except (OSError, IndexError):
            continue


def _is_marked(pid: int, token: str) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    prefix = f"{VARIABLE}=".encode()
    return any(
        variable.startswith(prefix) and token.encode() in variable[len(prefix) :].split(b"/")
        for variable in variables
    )


def _command(pid: int, state: str) -> str:
    if state in "ZX":
        return "(ended, never reaped)"
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return " ".join(word.decode(errors="replace") for word in words).strip()[:160]


def _tracker_pid() -> int | None:
    """multiprocessing's resource tracker, one per process and for good, is nobody's leak."""
    from multiprocessing import resource_tracker

    return getattr(resource_tracker._resource_tracker, "_pid", None)


def _descriptors() -> Iterator[Item]:
    from multiprocessing import resource_tracker

    spared = getattr(resource_tracker._resource_tracker, "_fd", None)
    for number in _numbers("/proc/self/fd"):
        # The listing's own descriptor is closed by now and has no link.
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith(SEGMENT):
                yield Item(Kind.SEGMENT, (number, target), f"{target} at descriptor {number}")
            elif number != spared and target not in LOOP_OWNED:
                yield Item(Kind.DESCRIPTOR, (number, target), f"{number} {target}")


def _threads() -> Iterator[Item]:
    for thread in threading.enumerate():
        # Workers of a loop's default executor stay with the loop.
        if not thread.name.startswith(("asyncio_", "uvloop_")):
            yield Item(Kind.THREAD, id(thread), thread.name)
    for number, name in _native_threads().items():
        if name.startswith("ZMQbg"):
            yield Item(Kind.THREAD, number, f"{name}, of a zmq context that was not terminated")


def _native_threads() -> dict[int, str]:
    names = {}
    for number in _numbers("/proc/self/task"):
        with suppress(OSError):
            names[number] = Path(f"/proc/self/task/{number}/comm").read_text().strip()
    return names


def _tasks() -> Iterator[Item]:
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return
    for task in tasks:
        if task is not asyncio.current_task():
            yield Item(Kind.TASK, id(task), f"{task.get_name()} {_place(task)}")


def _place(task: asyncio.Task[object]) -> str:
    name = getattr(task.get_coro(), "__qualname__", "?")
    frames = task.get_stack(limit=1)
    where = f" at {frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else ""
    return f"running {name}{where}"


def _segments() -> Iterator[Item]:
    with suppress(OSError):
        for entry in os.scandir("/dev/shm"):
            with suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    yield Item(Kind.SEGMENT, entry.inode(), entry.path)


def _files(directory: Path) -> Iterator[Item]:
    for path in directory.rglob("*"):
        if not path.is_dir():
            yield Item(Kind.FILE, path, str(path))


def _explained(item: Item) -> Item:
    """Say of a socket which addresses it has; too slow to do for all of them at every look."""
    if item.kind is not Kind.DESCRIPTOR or "socket:" not in item.text:
        return item
    import psutil

    number = int(item.text.split()[0])
    for connection in psutil.Process().net_connections("all"):
        if connection.fd == number:
            ends = " to ".join(_address(end) for end in (connection.laddr, connection.raddr) if end)
            return Item(item.kind, item.key, f"{item.text} {ends or 'unnamed'} {connection.status}")
    return item


def _address(end: object) -> str:
    return f"{end[0]}:{end[1]}" if isinstance(end, tuple) else str(end)


def _in_use(segments: list[Item]) -> set[Item]:
    """Those that a living process has mapped: the segments of a test that runs beside this one."""
    used: set[Item] = set()
    for pid in _numbers("/proc") if segments else ():
        with suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
            # By number, not by name: a semaphore is mapped under another one, before it gets its own.
            mapped = {line.split(maxsplit=5)[4] for line in maps if "/dev/shm/" in line}
            used.update(item for item in segments if pid != os.getpid() and str(item.key) in mapped)
    return used


def _numbers(directory: str) -> list[int]:
    try:
        return [int(entry) for entry in os.listdir(directory) if entry.isdecimal()]
    except OSError:
        return []
