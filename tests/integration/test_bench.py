"""Every case of ``callboard bench`` works on every plane; how fast is not a test's affair."""

import asyncio
import sys
from pathlib import Path

import orjson
import pytest

from callboard.bench.cases import CASES

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


@pytest.mark.parametrize("plane", ["memory", "ipc", "tcp"])
@pytest.mark.timeout(300)
async def test_every_case_gives_a_value_or_says_why_not(cluster, plane):
    command = Path(sys.executable).with_name("callboard")
    process = await asyncio.create_subprocess_exec(
        command, "bench", "--json", "--plane", plane, "--seconds", "0.1", "--reps", "1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    lines = [orjson.loads(line) for line in output.splitlines()]
    assert [line["case"] for line in lines] == list(CASES)
    skipped = {line["case"] for line in lines if "skipped" in line}
    assert skipped == ({*NEEDS_PROCESSES, "floor_zmq"} if plane == "memory" else set())
    assert all(line["value"] > 0 for line in lines if "skipped" not in line)
