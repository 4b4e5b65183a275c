"""Unix sockets between processes of one host: where they are, and who is on this host."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from .address import Address
from .errors import BadAddress

OWN_DIRECTORY = "callboard-ipc-"
EVENTS, REPLAY = "/events", "/replay"
"""What the names of the event plane's sockets have behind the node."""

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


def short_cut(address: Address) -> str:
    """Return the path of the unix socket that a tcp address names, if it is on this host; else nothing."""
    path = address.options.get("ipc", "")
    return path if path and address.options.get("host") == host_id() and os.path.exists(path) else ""


def socket_path(directory: str, node: str) -> str:
    """Return the path of a node's socket, making its private directory; raises `BadAddress`."""
    path = _path(directory, node)
    base = Path(path).parent
    if len(os.fsencode(path)) > PATH_LIMIT_BYTES:
        raise BadAddress(
            f"ipc://{path}",
            f"its {len(os.fsencode(path))} bytes are more than the {PATH_LIMIT_BYTES} of a unix socket; "
            "set a shorter network.ipc_directory",
        )
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = base.stat()
    except OSError as error:
        raise BadAddress(
            f"ipc://{base}", f"the directory cannot be made: {error.strerror}; set network.ipc_directory"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise BadAddress(
            f"ipc://{base}", "it must be a directory of yours with mode 0700, or set network.ipc_directory"
        )
    return path


def _path(directory: str, node: str) -> str:
    base = Path(directory) if directory else Path(tempfile.gettempdir(), f"{OWN_DIRECTORY}{os.getuid()}")
    return str(base / hashlib.sha256(node.encode()).hexdigest()[:20])


def remove_sockets_of(directory: str, node: str) -> None:
    """Remove the files of a node that is dead: one that is killed leaves them."""
    for what in ("", EVENTS, REPLAY):
        remove_socket(_path(directory, node + what))


def remove_socket(path: str) -> None:
    """Remove a socket's file; a directory that we made and that is empty goes with it."""
    if path:
        with suppress(OSError):
            os.unlink(path)
        with suppress(OSError):
            if Path(path).parent.name.startswith(OWN_DIRECTORY):
                os.rmdir(Path(path).parent)
