"""``callboard bench costs``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import click

from callboard.supervisor.cli_errors import echo_json, reporting


@click.command()
@click.option(
    "--rounds",
    type=click.IntRange(1, 100_000),
    default=200,
    show_default=True,
    help="Rounds of about 0.2 s; the fastest of each kind counts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one object a line, and no table.")
@click.option(
    "--update",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Rewrite the generated part of this document.",
)
@reporting
def costs(rounds: int, as_json: bool, update: Path | None) -> None:
    """Measure what each feature costs per message: deadline, cancellation, credit, hooks, typed arguments."""
    from . import costs, document
    from .rig import loop_factory

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        measured = runner.run(costs.measure(rounds))
    table = costs.table(measured, costs.look_ns())
    for cost in measured if as_json else ():
        echo_json(asdict(cost))
    if not as_json:
        click.echo(table)
    if update is not None:
        text = update.read_text(encoding="utf-8")
        update.write_text(document.update(text, {"costs": table}, str(update)), encoding="utf-8")
        click.echo(f"rewrote {update}", err=True)
