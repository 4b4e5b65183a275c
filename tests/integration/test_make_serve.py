"""``examples/serving/serve.toml`` as a user meets it: started, tried with the line it prints, ended by Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

import orjson
import psutil
import pytest

from callboard.testing.cluster import Cluster

from .terminal import COMMAND

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "serving" / "serve.toml"
LIMIT_S = 60.0


async def lines_until(process: Process, wanted: str, limit_s: float = LIMIT_S) -> list[str]:
    """What it printed up to the line with ``wanted`` in it."""
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(limit_s):
        while not lines or wanted not in lines[-1]:
            line = await process.stdout.readline()
            assert line, f"it ended: {lines}"
            lines.append(line.decode().rstrip("\n"))
    return lines


async def test_the_example_serves_what_its_own_line_asks_for_and_ends_clean(
    cluster: Cluster, tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    config = tmp_path / "serve.toml"
    config.write_text(re.sub(r"\bport = 8000\b", "port = 0", EXAMPLE.read_text()))
    process = await asyncio.create_subprocess_exec(
        COMMAND, "up", str(config), stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    try:
        head, *rest = await lines_until(process, "curl")
        children = psutil.Process(process.pid).children(recursive=True)

        assert head == "callboard serve · plane tcp · events zmq"
        where = [re.fullmatch(r"  (\S+) +pid (\d+)  (\S+) +ready  \d+\.\d s", line) for line in rest[:-1]]
        assert sorted((match[1], match[3]) for match in where if match) == [
            ("engine.0", "worker.0"),
            ("engine.1", "worker.1"),
            ("frontend.0", "frontend.0"),
            ("router.0", "router.0"),
        ]
        assert {int(match[2]) for match in where if match} <= {child.pid for child in children}

        events = (await shell(rest[-1].partition("try: ")[2])).split(b"\n\n")
        assert events.pop() == b""
        assert events.pop() == b"data: [DONE]"
        deltas = [orjson.loads(event.removeprefix(b"data: "))["choices"][0]["delta"] for event in events]
        assert sum(bool(delta.get("content")) for delta in deltas) == 16

        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(LIMIT_S):
            _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"stopping; once more to kill\n")
        assert [child for child in children if child.is_running()] == []
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def shell(line: str) -> bytes:
    """Run a line as a user would who copies it."""
    process = await asyncio.create_subprocess_shell(line, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err
    return out
