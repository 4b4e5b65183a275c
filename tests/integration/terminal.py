"""The ``callboard`` command as a test uses it: run to its end, or left running."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COMMAND = str(Path(sys.executable).with_name("callboard"))
LIMIT_S = 60.0


@dataclass(frozen=True)
class Finished:
    """What a command left."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one line of JSON that it printed."""
        return json.loads(self.out)


def run(*words: str) -> Finished:
    """Run any program to its end, in a test without an event loop."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


async def launch(*words: object, **options: Any) -> Process:
    """Start any program in the folder of the tests, so that a config finds the actors there."""
    settings: dict[str, Any] = {"stdin": asyncio.subprocess.DEVNULL, "stdout": PIPE, "stderr": PIPE}
    return await asyncio.create_subprocess_exec(*map(str, words), cwd=HERE, **settings | options)


async def finished(process: Process) -> Finished:
    """Wait for the end."""
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, (out or b"").decode(), (err or b"").decode())


async def callboard(*words: object, **options: Any) -> Finished:
    """Run a command to its end."""
    return await finished(await launch(COMMAND, *words, **options))


async def up(*words: object, **options: Any) -> tuple[Process, dict[str, Any]]:
    """Start ``callboard up`` in a process group of its own, as a terminal does; wait until all is ready.

    Returns the process and its status.
    """
    process = await launch(COMMAND, "up", *words, "--json", start_new_session=True, **options)
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        line = await process.stdout.readline()
    if not line:
        raise AssertionError(f"it did not start: {await finished(process)}")
    return process, json.loads(line)
