"""What the drivers share: their servers and their output. Standard library only."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from ..measuring import Skipped, Values

READY_LIMIT_S = 30.0


class Servers(contextlib.ExitStack):
    """Starts servers of this driver as processes of their own, and kills them in the end."""

    def start(self, module: str, *arguments: str) -> tuple[int, str]:
        """Start ``python -m module serve ...``; return its pid and its first line, which says that it is ready."""
        command = [sys.executable, "-m", module, "serve", *arguments]
        process = self.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        self.callback(process.kill)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with exit code {process.wait()} before it was ready")
        return process.pid, line.strip()


def serve_ready(text: str = "ready") -> None:
    """Tell who started this server that it is ready."""
    print(text, flush=True)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run on uvloop, as callboard does, if the peer's interpreter has it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def drive(measured: Callable[[str, float, str], Values]) -> None:
    """Read the command line, measure, and print. ``measured`` is given what, the seconds, and the transport."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--transport", default="tcp")
    parser.add_argument("what")
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    try:
        values = measured(options.what, options.seconds, options.transport)
    except Skipped as why:
        print(json.dumps({"case": options.what, "skipped": str(why)}), flush=True)
        return
    for case, (value, unit) in values.items():
        print(json.dumps({"case": case, "value": value, "unit": unit}), flush=True)
    # Runtimes that drain for seconds when they end have nothing left to say.
    sys.stdout.flush()
    os._exit(0)
