"""Starts a program that is not ours so that it cannot outlive its parent: the kernel kills it when that ends.

Run by path in an isolated interpreter, as ``tether.py PARENT PROGRAM ARGUMENT...``, it becomes the program. A
function run between fork and exec could do the same, but not safely in a process that has threads.
"""

from __future__ import annotations

import os
import signal
import sys

PARENT_GONE = 3
"""Exit code if the parent has ended before the kernel could be asked."""

CANNOT_RUN = 126
"""Exit code if the program cannot be run; its standard error says why."""


def tethered(command: list[str]) -> list[str]:
    """Return the command that runs ``command`` tied to this process.

    The tie is to the *thread* that starts it: when that thread ends, so does the program.
    """
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    """Ask for the parent-death signal, then become the command."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(PARENT_GONE)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the program would inherit that
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(CANNOT_RUN)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
