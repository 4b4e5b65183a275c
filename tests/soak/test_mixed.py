"""Nothing is lost, run twice or leaked while processes die and freeze under load. See docs/soak.md."""

from __future__ import annotations

import logging
import os
import random

import pytest

from callboard.testing.cluster import Cluster
from callboard.testing.soak.mixed import Plan, Soak

SECONDS = {"tcp": 60.0, "nats": 20.0}
GIVEN = {name: os.environ.get(f"SOAK_{name.upper()}") for name in ("seconds", "seed", "leak_bytes", "plane")}
LIMIT_S = 240


def plan(plane: str) -> Plan:
    """What the environment says, else what CI runs."""
    return Plan(
        seconds=float(GIVEN["seconds"] or SECONDS.get(plane, 60)),
        seed=int(GIVEN["seed"] or random.randrange(1_000_000)),
        leak_bytes=int(GIVEN["leak_bytes"] or 0),
    )


@pytest.fixture(autouse=True)
def _no_log_records_in_memory(tmp_path):
    """pytest keeps every record of a test, which looks like a leak."""
    logger = logging.getLogger("callboard")
    handler = logging.FileHandler(tmp_path / "log")
    logger.addHandler(handler)
    logger.propagate = False
    yield
    logger.propagate = True
    logger.removeHandler(handler)
    handler.close()


@pytest.mark.parametrize("cluster", [GIVEN["plane"]] if GIVEN["plane"] else list(SECONDS), indirect=True)
@pytest.mark.timeout(LIMIT_S + float(GIVEN["seconds"] or 0))
async def test_a_mixed_load_with_killed_and_frozen_processes_loses_nothing_runs_nothing_twice_and_leaks_nothing(
    cluster: Cluster, tmp_path
):
    assert cluster.plane
    soak = plan(cluster.plane)
    print(f"\nmixed soak on {cluster.plane}: {soak}")
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    report = await Soak(await cluster.system(), ledger, soak).run()
    print(report)
    assert report.problems == []
