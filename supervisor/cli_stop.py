"""``callboard stop``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from .cli_errors import reporting, system_options

KILL_LIMIT_S = 10.0


@click.command()
@system_options
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(0),
    help="Seconds until what still runs is killed; by default what the config says. 0 kills at once.",
)
@reporting
def stop(namespace: str | None, runtime_dir: Path | None, grace_s: float | None) -> None:
    """Drain and stop a running system; returns when it is gone.

    \b
    Exit codes: 0 stopped, 2 several systems run (choose one), 3 none runs, 4 it did not stop in time.
    """
    asyncio.run(_stop(namespace, runtime_dir, grace_s))


async def _stop(namespace: str | None, runtime_dir: Path | None, grace_s: float | None) -> None:
    from .connection import Connection

    connection = await Connection.open(namespace=namespace, runtime_dir=runtime_dir)
    try:
        await connection.stop(grace_s, limit_s=KILL_LIMIT_S)
    finally:
        await connection.close()
