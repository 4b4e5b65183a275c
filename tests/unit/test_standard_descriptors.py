"""The command line with standard streams that its caller has closed."""

from __future__ import annotations

import subprocess
import sys

CLOSED = """
import os, sys
from callboard.supervisor.cli import main
try:
    main(["--version"])
except SystemExit as end:
    for number in range(3):
        os.fstat(number)
    print("out"), print("error", file=sys.stderr), sys.stdin.read()
    os._exit(end.code or 0)
"""


def test_closed_standard_streams_are_opened_before_a_command_runs() -> None:
    closing = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, CLOSED]
    assert subprocess.run(closing, check=False, timeout=60).returncode == 0
