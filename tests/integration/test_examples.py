"""Every example runs alone and prints what it says."""

import asyncio
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = {
    "hello": ["Hello, world!", "world", "nobody"],
    "pipeline": ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2", "2 workers were told to stop"],
    "survive": ["failed, executed=maybe", "back in another process", "restarts: 1"],
    "slow": [
        "the mailbox and what may wait for it are full",
        "all handled: True",
        "too slow, executed=maybe",
    ],
}


async def output(*command):
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode().splitlines()


def test_every_example_is_run():
    elsewhere = {"wiring", "own_plane", "own_plane_rig"}  # below, and in test_own_plane.py
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SCRIPTS, *elsewhere}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_example_prints_what_it_says(cluster, name):
    assert await output(sys.executable, "-P", EXAMPLES / f"{name}.py") == SCRIPTS[name]


async def test_the_wired_example_answers_at_the_terminal(cluster):
    system = await cluster.up(EXAMPLES / "wiring.toml")
    call = [Path(sys.executable).with_name("callboard"), "call", "-n", system.namespace]
    assert await output(*call, "counter.add", "[5]") == ["15"]
    assert await output(*call, "report.line") == ['"15 things"']
