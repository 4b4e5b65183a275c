"""``callboard ps``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .cli_errors import echo_json, reporting, system_options

if TYPE_CHECKING:
    from .status import ActorStatus, ProcessStatus, SystemStatus


@click.command()
@system_options
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
@reporting
def ps(namespace: str | None, runtime_dir: Path | None, as_json: bool) -> None:
    """Show the processes and actors of a running system.

    \b
    Exit codes: 0 shown, 2 several systems run (choose one), 3 none runs, 4 it does not answer.
    """
    import msgspec

    status = asyncio.run(_status(namespace, runtime_dir))
    if as_json:
        echo_json(msgspec.to_builtins(status))
    else:
        for line in lines_of(status):
            click.echo(line)


async def _status(namespace: str | None, runtime_dir: Path | None) -> SystemStatus:
    from .connection import Connection

    connection = await Connection.open(namespace=namespace, runtime_dir=runtime_dir)
    try:
        return await connection.status()
    finally:
        await connection.close()


def lines_of(status: SystemStatus) -> list[str]:
    """The status as text: a head, a table, and what was announced."""
    insecure = "   INSECURE: others may reach it without keys" if status.insecure else ""
    head = (
        f"callboard {status.namespace} · plane {status.plane} · events {status.event_plane}"
        f" · pid {status.pid} · {status.state.value}{insecure}"
    )
    rows: list[tuple[str, ...]] = [
        (
            "PROCESS",
            "PID",
            "STATE",
            "RESTARTS",
            "ACTOR",
            "STATE",
            "RESTARTS",
            "HANDLED",
            "MAILBOX",
            "LAST EXIT",
        )
    ]
    for process in status.processes:
        rows += _rows(process)
    announced = [f"  {entry.actor}: {entry.text}" for entry in status.announcements]
    return [head, *align(rows), *announced]


def _rows(process: ProcessStatus) -> list[tuple[str, ...]]:
    state = process.state.value if process.health in ("", "alive") else process.health
    first = (process.name, str(process.pid or "-"), state, str(process.restarts))
    rows: list[tuple[str, ...]] = []
    for index, actor in enumerate(process.actors):
        rows.append(
            (
                *(("", "", "", "") if index else first),
                actor.name,
                actor.state.value,
                str(actor.restarts),
                str(actor.counters.get("handled", "-")),
                str(actor.counters.get("mailbox", "-")),
                _last_exit(process, actor),
            )
        )
    return rows


def _last_exit(process: ProcessStatus, actor: ActorStatus) -> str:
    return actor.last_error or process.last_exit or "-"


def align(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns of equal width, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
