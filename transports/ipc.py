"""Unix sockets between processes of one host: where they are, and who is on this host."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from .errors import BadAddress

PATH_LIMIT_BYTES = 107
"""The kernel's limit for the path of a unix socket."""


@lru_cache(maxsize=1)
def host_id() -> str:
    """A short name for this host and this boot of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = ""
    return hashlib.sha256(f"{boot}{socket.gethostname()}".encode()).hexdigest()[:12]


def socket_path(directory: str, node: str) -> str:
    """Return the path of a node's socket, making its private directory; raises `BadAddress`."""
    base = Path(directory) if directory else Path(tempfile.gettempdir(), f"callboard-ipc-{os.getuid()}")
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = base.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise BadAddress(f"ipc://{base}", "the directory must belong to you, with mode 0700")
    path = str(base / hashlib.sha256(node.encode()).hexdigest()[:20])
    if len(os.fsencode(path)) > PATH_LIMIT_BYTES:
        raise BadAddress(
            f"ipc://{path}", f"the path is longer than {PATH_LIMIT_BYTES} bytes; set a shorter directory"
        )
    return path


def remove_socket(path: str) -> None:
    """Remove a socket's file; a directory that we made and that is empty goes with it."""
    if path:
        with suppress(OSError):
            os.unlink(path)
        with suppress(OSError):
            if Path(path).parent.name.startswith("callboard-ipc-"):
                os.rmdir(Path(path).parent)
