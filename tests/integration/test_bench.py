"""Every case of ``callboard bench`` works on every plane; how fast is not a test's affair."""

import asyncio
import sys
from pathlib import Path

import orjson
import pytest

from callboard.bench.drivers import Drivers
from callboard.bench.growth import CURVES
from callboard.bench.measuring import Skipped
from callboard.bench.rig import Rig
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
    "http_32",
    *(name for name in CASES if name.startswith("flood_")),
}
TAKEN = {
    plane: [name for name in CASES if not name.startswith("flood_") or name == "flood_stop"]
    for plane in ("ipc", "nats")
}
"""Floods take seconds each; the conformance suite floods every plane."""


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
        command, "bench", *TAKEN.get(plane, ()), "--json", "--plane", plane, "--seconds", "0.05", "--reps", "1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    said = [line for line in errors.decode().splitlines() if plane != "nats" or "NATS" not in line]
    assert (process.returncode, said) == (0, [])
    lines = [orjson.loads(line) for line in output.splitlines()]
    assert [line["case"] for line in lines] == TAKEN.get(plane, list(CASES))
    skipped = {line["case"] for line in lines if "skipped" in line}
    assert skipped == SKIPPED[plane]
    assert all(line["value"] > 0 for line in lines if "skipped" not in line)


async def lines_of(*words):
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("callboard"), "bench", *words, "--json", "--seconds", "0.05", "--reps", "1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    return [orjson.loads(line) for line in output.splitlines()]


async def test_bare_peers_are_measured_beside_callboard_and_absent_ones_skipped_with_the_reason(
    cluster, tmp_path
):
    absent = tmp_path / "python"  # an interpreter of its own that has no packages
    absent.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    absent.chmod(0o755)
    lines = await lines_of(
        "peers", "ask_seq_p99", "ask_8", "--plane", "tcp", "--peer", "pyzmq-blocking", "--peer", "pyzmq-batched",
        "--peer", "uvloop", "--peer", "ray", "--peer-python", f"ray={absent}",
    )  # fmt: skip
    found = {(line["peer"], line["case"]): line.get("skipped", line.get("value")) for line in lines}
    names = ("callboard", "pyzmq-blocking", "pyzmq-batched", "uvloop", "ray")
    assert list(found) == [(name, case) for case in ("ask_seq_p99", "ask_8") for name in names]
    reasons = {key: value for key, value in found.items() if isinstance(value, str)}
    assert reasons == {
        ("pyzmq-blocking", "ask_8"): "one blocking round trip after the other is all it does",
        ("ray", "ask_seq_p99"): "not installed: pip install ray",
        ("ray", "ask_8"): "not installed: pip install ray",
    }
    assert all(value > 0 for key, value in found.items() if key not in reasons)


@pytest.mark.parametrize("name", ["actors", "processes", "queued", "streams"])
async def test_a_growth_curve_gives_cost_and_rate(name):
    async with Rig("tcp") as rig:
        point = await CURVES[name].measure(rig, 0.05, 4)
    assert point.cpu_us > 0
    assert point.per_s > 0


async def test_a_driver_that_fails_or_hangs_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && exit 0\necho why >&2\n[ "$5" = tell ] && exec sleep 600\nexit 3\n'
    )
    broken.chmod(0o755)
    async with Drivers({"ray": str(broken)}) as drivers:
        with pytest.raises(Skipped, match=r"^failed: why$"):
            await drivers.measure("ray", "tcp", "ask_64", 0.05)
        monkeypatch.setattr("callboard.bench.drivers.LIMIT_S", 0.2)
        with pytest.raises(Skipped, match=r"^failed: it did not end within 0 s$"):
            await drivers.measure("ray", "tcp", "tell", 0.0)
