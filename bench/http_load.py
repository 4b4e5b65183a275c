"""The serving application under load: a frontend, a router and a worker, each in a process of its own."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

from callboard.supervisor.config import parse
from callboard.supervisor.system import System

from .measuring import Skipped
from .peers import sse
from .rig import Rig

MODEL = "simulated"
CONFIG = """
[actor.frontend]
class = "callboard.serving:Frontend"
args = { port = 0, router = { ref = "router" } }

[actor.router]
class = "callboard.serving:Router"
args = { workers = { ref = "worker" } }

[actor.worker]
class = "callboard.serving:Worker"
args = { engine = { kind = "simulated", model = "simulated" } }
"""
NEEDED = ("uvicorn", "httptools")


async def events_per_second(rig: Rig, seconds: float) -> float:
    """Events that 32 connections receive, on the plane of the rig. Raises `Skipped`."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise Skipped(f"{' and '.join(missing)} not installed: pip install 'callboard[serving]'")
    config = parse(CONFIG, file=Path("http_32.toml"), namespace=f"http-{rig.system.namespace}")
    async with System.from_config(replace(config, network=rig.settings)) as system:
        (url,) = [line.text for line in system.announcements if line.actor.startswith("frontend")]
        match = re.match(r"http://127\.0\.0\.1:(\d+)\b", url)
        assert match is not None
        return await sse.events_per_second(int(match[1]), sse.request_of(MODEL), seconds)
