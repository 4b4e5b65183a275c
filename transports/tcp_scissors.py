"""Ends one connection of a zmq socket from outside, also when this process has no descriptor left.

libzmq has no way to end one connection of a ROUTER. So its descriptor is shut down behind libzmq's back, which then
sees what it would see if the peer had closed. The number of a descriptor is used again as soon as it is closed,
and libzmq closes it in its own thread, after it has reported the end: a duplicate that was made before the report
is the connection that was meant. The place for the duplicate is kept, because those who have to be dropped may be
the ones who hold all descriptors that there are.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress


class Scissors:
    """Two descriptors: a place for duplicates, and what is in it meanwhile."""

    def __init__(self) -> None:
        self._idle = self._twin = -1

    def __repr__(self) -> str:
        return f"<Scissors {self._twin}>"

    def open(self) -> None:
        """Take the descriptors; raises OSError if there are none."""
        self._idle = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._twin = os.dup(self._idle)
        except OSError:
            os.close(self._idle)
            raise

    def cut(self, fd: int, is_meant: Callable[[], bool]) -> None:
        """Shut ``fd`` down, if ``is_meant`` still says so once it is certain which connection that is."""
        if self._twin < 0:
            return
        try:
            os.dup2(fd, self._twin, inheritable=False)
        except OSError:  # closed meanwhile
            return
        try:
            if is_meant():
                with suppress(OSError):
                    connection = socket.socket(fileno=self._twin)
                    try:
                        connection.shutdown(socket.SHUT_RDWR)
                    finally:
                        connection.detach()
        finally:
            os.dup2(self._idle, self._twin, inheritable=False)

    def close(self) -> None:
        """Give the descriptors back; idempotent."""
        if self._twin >= 0:
            os.close(self._twin)
            os.close(self._idle)
            self._twin = self._idle = -1
