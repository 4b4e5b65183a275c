"""``callboard bench index``."""

from __future__ import annotations

import asyncio
from typing import TextIO

import click

from callboard.supervisor.cli_errors import json_line, reporting
from callboard.transports.errors import did_you_mean


@click.command()
@click.argument("shapes", nargs=-1, metavar="[SHAPE...]")
@click.option(
    "--blocks",
    "sizes",
    multiple=True,
    type=click.IntRange(1024, 10_000_000),
    help="Blocks to store, repeatable; 10 thousand and 1 million.",
)
@click.option(
    "--peer-python",
    "pythons",
    multiple=True,
    metavar="dynamo=PATH",
    help="Interpreter that has ai-dynamo-runtime, if it is another one than this.",
)
@click.option(
    "--reps", type=click.IntRange(1, 100), default=3, show_default=True, help="Fresh processes each."
)
@click.option("--list", "as_list", is_flag=True, help="Show the shapes, and measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one object a line, and no table.")
@click.option("--save", type=click.File("w", lazy=False), help="Write the lines into a file, too.")
@reporting
def index(
    shapes: tuple[str, ...],
    sizes: tuple[int, ...],
    pythons: tuple[str, ...],
    reps: int,
    as_list: bool,
    as_json: bool,
    save: TextIO | None,
) -> None:
    """Measure the router's index of prefixes beside Dynamo's RadixTree, in turns, in fresh processes.

    Times are CPU time of all threads. Dynamo's bindings take events as JSON, which they read in that time. In
    brackets is how many times better callboard's figure is; below 1 it is worse.
    """
    from . import index as measuring
    from .drivers import Drivers, pythons_of
    from .index_shapes import SHAPES
    from .lines import Line

    if as_list:
        for shape in SHAPES.values():
            click.echo(f"{shape.name:<12} {shape.what}")
        return
    for name in shapes:
        if name not in SHAPES:
            raise click.UsageError(
                f"no shape {name!r}{did_you_mean(name, SHAPES)}; shapes are: {', '.join(SHAPES)}"
            )
    try:
        own_pythons = pythons_of(pythons)
    except ValueError as error:
        raise click.UsageError(f"--peer-python: {error}") from None

    async def run() -> list[Line]:
        lines = []
        async with Drivers(own_pythons) as drivers:
            async for line in measuring.measure(
                shapes or tuple(SHAPES), sizes or measuring.SIZES, reps, drivers
            ):
                lines.append(line)
                if save is not None:
                    save.write(json_line(line.as_json()) + "\n")
                    save.flush()
                if as_json:
                    click.echo(json_line(line.as_json()))
        return lines

    lines = asyncio.run(run())
    if not as_json:
        click.echo(measuring.text(lines))
        for line in lines:
            if line.skipped:
                click.echo(f"{line.peer} {line.case}, {line.at:,} blocks: {line.skipped}", err=True)
