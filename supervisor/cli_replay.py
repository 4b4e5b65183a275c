"""``callboard replay``."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from callboard.transports.errors import ConfigError

from .cli_errors import ExitCode, echo_json, reporting

if TYPE_CHECKING:
    from callboard.actors.replay import Replay

PROGRESS_S = 1.0


@click.command()
@click.argument("system", metavar="FILE|NAMESPACE")
@click.argument("component")
@click.option("--from-sequence", type=click.IntRange(1), help="Begin at this message; see SEQUENCE in logs.")
@click.option(
    "--since",
    metavar="TIME",
    help="Begin at a time: 2026-01-31T12:00:00, with or without zone, or 10m, 2h, 1d ago.",
)
@click.option("--dead", is_flag=True, help="Replay dead letters instead of what was told.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds that one message may take.",
)
@click.option(
    "--runtime-dir", type=click.Path(path_type=Path, file_okay=False), help="Runtime directory of the system."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@reporting
def replay(
    system: str,
    component: str,
    from_sequence: int | None,
    since: str | None,
    dead: bool,
    timeout_s: float,
    runtime_dir: Path | None,
    as_json: bool,
) -> None:
    """Have a durable component of a running system handle its stored messages again, in order.

    The system is named by its config file or its namespace. Without --from-sequence and --since everything that is
    stored is replayed, up to what was stored last when this begins. Handlers run again: they must be able to.

    \b
    Examples:
      callboard replay serve.toml worker --from-sequence 1200
      callboard replay demo worker --since 2h
      callboard replay demo worker --dead

    \b
    Exit codes: 0 all were handled, 1 some failed, 2 wrong usage, 3 no system runs.
    """
    if from_sequence is not None and since is not None:
        raise click.UsageError("--from-sequence and --since exclude each other")
    from .replaying import moment

    try:
        start_s = None if since is None else moment(since, time.time())
    except ConfigError as error:
        raise click.UsageError(f"--{error}") from None
    show = _Progress()
    report = asyncio.run(
        _replay(namespace_of(system), runtime_dir, component, from_sequence, start_s, dead, timeout_s, show)
    )
    if as_json:
        echo_json(asdict(report))
    else:
        click.echo(summary(report))
        for sequence, wrong in report.errors:
            click.echo(f"  {sequence}: {wrong}", err=True)
    if report.failed:
        sys.exit(ExitCode.FAILED)


def namespace_of(system: str) -> str:
    """The namespace of a config file, or the one that ``system`` is. Raises `ConfigError`."""
    if Path(system).is_file():
        from .config import load

        return load(system).namespace
    if system.endswith(".toml") or "/" in system:
        raise ConfigError(f"{system}: there is no such file")
    return system


def summary(report: Replay) -> str:
    """The result in one line."""
    count = report.ok + report.failed
    span = (
        f"sequence {report.first} to {report.last}"
        if report.last >= report.first
        else "nothing is stored there"
    )
    return f"replayed {count} messages of {report.component} ({span}): {report.ok} ok, {report.failed} failed"


class _Progress:
    """Says on standard error how far it is, now and then."""

    def __init__(self) -> None:
        self._said_s = time.monotonic()

    def __call__(self, report: Replay) -> None:
        now = time.monotonic()
        if now - self._said_s >= PROGRESS_S:
            self._said_s = now
            click.echo(f"{report.at} of {report.last}: {report.ok} ok, {report.failed} failed", err=True)


async def _replay(
    namespace: str,
    runtime_dir: Path | None,
    component: str,
    from_sequence: int | None,
    since_s: float | None,
    dead: bool,
    timeout_s: float,
    show: _Progress,
) -> Replay:
    from .connection import Connection

    async with await Connection.open(
        namespace=None if runtime_dir else namespace, runtime_dir=runtime_dir, plain_objects=True
    ) as connection:
        return await connection.replay(
            component,
            from_sequence=from_sequence,
            since=since_s,
            dead=dead,
            deadline_s=timeout_s,
            on_progress=show,
        )
