"""Every case of ``callboard bench`` works on every plane; how fast is not a test's affair."""

import asyncio
import sys
from pathlib import Path

import orjson
import pytest

from callboard.bench.table import CASES

NEEDS_PROCESSES = {
    "pipeline_32",
    "first_item",
    "spawn",
    "idle_node",
    "idle_actor",
    "failover",
    "recovery",
    "startup",
}


SKIPPED = {
    "memory": {*NEEDS_PROCESSES, "floor_zmq", "broker_return"},
    "ipc": {"broker_return"},
    "tcp": {"broker_return"},
    "nats": {"floor_zmq"},
}


@pytest.mark.parametrize("plane", SKIPPED)
@pytest.mark.timeout(300)
async def test_every_case_gives_a_value_or_says_why_not(cluster, plane):
    command = Path(sys.executable).with_name("callboard")
    process = await asyncio.create_subprocess_exec(
        command, "bench", "--json", "--plane", plane, "--seconds", "0.1", "--reps", "1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    said = [line for line in errors.decode().splitlines() if plane != "nats" or "NATS" not in line]
    assert (process.returncode, said) == (0, [])
    lines = [orjson.loads(line) for line in output.splitlines()]
    assert [line["case"] for line in lines] == list(CASES)
    skipped = {line["case"] for line in lines if "skipped" in line}
    assert skipped == SKIPPED[plane]
    assert all(line["value"] > 0 for line in lines if "skipped" not in line)
