"""``examples/serving/launch.sh`` on both planes: from any directory, with a request that is really answered."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from callboard.testing.cluster import Cluster
from callboard.testing.nats_session import NatsForTest

from .terminal import run
from .test_make_serve import EXAMPLE, lines_until, shell

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "examples" / "serving" / "launch.sh"
LIMIT_S = 60.0

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@asynccontextmanager
async def launched(
    directory: Path, *words: object, script: Path = LAUNCH, **variables: str
) -> AsyncIterator[Process]:
    """The script, started in a directory that has nothing to do with it, on a free port; ended by Ctrl-C."""
    config = directory / "serve.toml"
    config.write_text(re.sub(r"\bport = 8000\b", "port = 0", EXAMPLE.read_text()))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
    process = await asyncio.create_subprocess_exec(
        *(script, *map(str, words)),
        env=environment | {"CONFIG": "serve.toml"} | variables,
        cwd=directory,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    try:
        yield process
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(LIMIT_S):
            _, err = await process.communicate()
        assert process.returncode == 0, err
        assert err.endswith(b"stopping; once more to kill\n")
        assert [child for child in family if child.is_running()] == []
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def answered(process: Process, limit_s: float = LIMIT_S) -> list[str]:
    """Try the line that it prints; returns what it printed before."""
    *lines, last = await lines_until(process, "curl", limit_s)
    answer = await shell(last.partition("try: ")[2])
    assert answer.endswith(b"data: [DONE]\n\n")
    assert answer.count(b'"content":"') >= 16
    return lines


@pytest.mark.parametrize("plane", ["tcp", "nats"])
async def test_it_starts_the_example_on_the_plane_and_its_line_is_answered(
    cluster: Cluster, tmp_path: Path, plane: str
) -> None:
    async with launched(tmp_path, f"--{plane}") as process:
        head, *lines = await answered(process)
        assert head == f"callboard serve · plane {plane} · events zmq"
        assert sum("ready" in line for line in lines) == 4
        assert any("nats-server at nats://" in line for line in lines) == (plane == "nats")


async def test_it_uses_the_nats_that_the_environment_names(
    cluster: Cluster, nats_server: NatsForTest, tmp_path: Path
) -> None:
    async with launched(tmp_path, "--nats", **nats_server.environment()) as process:
        head, *lines = await answered(process)
        assert head == "callboard serve · plane nats · events zmq"
        assert not any("nats-server at" in line for line in lines)


async def test_without_a_flag_the_environment_says_the_plane_and_arguments_go_to_up(
    cluster: Cluster, nats_server: NatsForTest, tmp_path: Path
) -> None:
    variables = {**nats_server.environment(), "DYN_REQUEST_PLANE": "NATS"}
    async with launched(tmp_path, "--", "--namespace", "mine", **variables) as process:
        head, *_ = await answered(process)
        assert head == "callboard mine · plane nats · events zmq"


async def test_it_works_through_a_link_from_anywhere(cluster: Cluster, tmp_path: Path) -> None:
    link = tmp_path / "here" / "run"
    link.parent.mkdir()
    link.symlink_to(LAUNCH)
    async with launched(tmp_path, "--tcp", script=link) as process:
        await answered(process)


def test_help_says_how_to_use_it() -> None:
    for flag in ("-h", "--help"):
        done = run(str(LAUNCH), flag)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("Usage: launch.sh [--tcp | --nats] [-- ARGUMENT...]\n")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--quic"], "unknown argument '--quic'; arguments of callboard up go behind --"),
        (["--tcp", "serve.toml"], "unknown argument 'serve.toml'; arguments of callboard up go behind --"),
        (["--tcp", "--nats"], "--tcp and --nats exclude each other"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(words: list[str], why: str) -> None:
    done = run(str(LAUNCH), *words)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"launch.sh: {why}; see launch.sh --help\n"


@pytest.mark.timeout(400)
async def test_a_fresh_clone_makes_its_environment_first(cluster: Cluster, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", "*.egg-info", "__pycache__", "build", "dist", ".*_cache"
    )
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, symlinks=True, ignore=ignored)
    script = clone / "examples" / "serving" / "launch.sh"
    async with launched(tmp_path, "--nats", script=script, VIRTUAL_ENV="", PYTHONPATH="") as process:
        await answered(process, limit_s=300)
    assert (clone / ".venv" / "bin" / "nats-server").exists()
