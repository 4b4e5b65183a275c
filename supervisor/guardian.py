"""The guardian: a tiny process that outlives a killed supervisor to kill what it left behind.

The supervisor starts it before any child and holds the only write end of its standard input. It writes
``+pid`` when a child (a session leader) starts and ``-pid`` when the child was reaped. End of file means
that the supervisor is gone, by whatever means: then every process of those sessions, and every process
whose environment carries the mark of this tree, gets SIGKILL until two looks at /proc find none.

The parent-death signal alone is not enough: it reaches children but not their children, and it is lost when a
child drops privileges. The mark alone is not enough either: a process can overwrite its environment.

This file is run by path in an isolated interpreter without site-packages: it may import nothing but the
cheapest parts of the standard library at the top.
"""

from __future__ import annotations

import os
import signal
import sys
import time

VARIABLE = "CALLBOARD_TREE"
"""Environment variable that marks every process of a tree: a ``/``-separated list, outermost tree first."""

LIMIT_S = 5.0


def mark(tree: str, process: str, incarnation: int, outer: str = "") -> str:
    """Return the value of `VARIABLE` for one child: the tree, then the process within it.

    ``outer`` is the value in the supervisor's own environment, so that trees nest.
    """
    inner = f"{tree}/{tree}:{process}:{incarnation}"
    return f"{outer}/{inner}" if outer else inner


def sweep(
    token: str, sessions: dict[int, int] | None = None, spare: frozenset[int] = frozenset()
) -> list[int]:
    """Send SIGKILL once to all that belongs to ``token`` (an element of the mark) or to the given sessions.

    ``sessions`` maps a session id to the start time of its leader (see `start_time`). Returns the pids.
    Where there is no /proc (not Linux) only the process groups of the sessions are killed.
    """
    if not os.path.isdir("/proc/self"):
        return _kill_groups(sessions or {})
    killed = []
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == own or int(entry) in spare:
            continue
        pid = int(entry)
        if _in_sessions(pid, sessions or {}) or token in _tokens(pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
            killed.append(pid)
    return killed


def start_time(pid: int) -> int:
    """Return the start of a process in clock ticks since boot, or -1 if it is gone or a zombie."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else -1


def sweep_until_empty(
    token: str, sessions: dict[int, int] | None = None, limit_s: float = LIMIT_S
) -> list[int]:
    """Repeat `sweep` until two looks in a row find nothing; returns what was still there at the limit."""
    deadline = time.monotonic() + limit_s
    empty = 0
    while True:
        left = sweep(token, sessions)
        empty = 0 if left else empty + 1
        if empty == 2 or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _in_sessions(pid: int, sessions: dict[int, int]) -> bool:
    fields = _stat(pid) if sessions else []
    if not fields or fields[0] in "ZX":
        return False
    session = int(fields[3])
    # The id of a dead session may have been given to a stranger: then its leader is younger than ours was.
    return session in sessions and start_time(session) in (-1, sessions[session])


def _tokens(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return []
    prefix = VARIABLE.encode() + b"="
    for variable in variables:
        if variable.startswith(prefix):
            return variable[len(prefix) :].decode(errors="replace").split("/")
    return []


def _kill_groups(sessions: dict[int, int]) -> list[int]:
    killed = []
    for group in sessions:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
        killed.append(group)
    return killed


class Guardian:
    """The supervisor's end: starts the guardian, tells it what to guard, and ends it.

    Killing the guardian harms nobody: `is_alive` turns False, and a new one can be told the same.
    """

    def __init__(self, tree: str) -> None:
        import subprocess

        # By path and isolated: 12 ms and 8 MiB instead of 100 ms and 40. A session of its own, so that no
        # Ctrl-C in the terminal and no kill of the supervisor's group reaches it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.abspath(__file__), tree],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id of the guardian."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """False once it ended, for whatever reason."""
        return self._process.poll() is None

    def guard(self, pid: int) -> None:
        """Take the session led by ``pid`` under guard."""
        self._tell(f"+{pid}\n")

    def release(self, pid: int) -> None:
        """The leader ``pid`` was reaped and nothing of its session is left."""
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        """Let the guardian look once more and end; blocks up to `LIMIT_S` if something resists.

        A guardian that is stopped or hangs is killed a second later.
        """
        import subprocess

        pipe = self._process.stdin
        assert pipe is not None
        pipe.close()
        try:
            self._process.wait(LIMIT_S + 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, line: str) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            os.write(pipe.fileno(), line.encode())
        except BrokenPipeError:
            return  # it was killed; the supervisor sees that by is_alive

    def __repr__(self) -> str:
        return f"<Guardian pid {self.pid} {'alive' if self.is_alive else 'gone'}>"


def stand_guard(token: str, descriptor: int = 0) -> None:
    """The whole life of the guardian process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    sessions: dict[int, int] = {}
    rest = b""
    while data := os.read(descriptor, 4096):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            pid = int(line[1:])
            if line[:1] == b"+":
                sessions[pid] = start_time(pid)
            else:
                sessions.pop(pid, None)
    sweep_until_empty(token, sessions)


if __name__ == "__main__":
    stand_guard(sys.argv[1])
