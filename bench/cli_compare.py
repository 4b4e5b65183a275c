"""``callboard bench peers``, ``growth``, ``report`` and ``all``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from callboard.supervisor.cli_errors import json_line, reporting
from callboard.transports.errors import did_you_mean

from .lines import Line, NotALine, Results, read

F = TypeVar("F", bound=Callable[..., Any])

PLANES = ("tcp", "ipc", "nats")


def measured_by(seconds: float) -> Callable[[F], F]:
    """Add the options that every measuring command has."""
    options = (
        click.option(
            "--plane", "planes", multiple=True, help=f"Plane of callboard, repeatable; all: {PLANES}."
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(0.05, 3600),
            default=seconds,
            show_default=True,
            help="Length of one measurement.",
        ),
        click.option(
            "--reps",
            type=click.IntRange(1, 100),
            default=3,
            show_default=True,
            help="Measurements of each case.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one object a line, and no tables."),
        click.option("--save", type=click.File("w", lazy=False), help="Write the lines into a file, too."),
    )
    return _with(options)


def reported(function: F) -> F:
    """Add the options that say what becomes of the results."""
    picture = click.Path(path_type=Path, file_okay=False)
    document = click.Path(path_type=Path, exists=True, dir_okay=False)
    options = (
        click.option("--plot", type=picture, help="Draw pictures into this directory (needs matplotlib)."),
        click.option("--png", is_flag=True, help="Draw PNG instead of SVG."),
        click.option("--update", type=document, help="Rewrite the generated parts of this document."),
    )
    return _with(options)(function)


def raced(function: F) -> F:
    """Add the options that choose the peers."""
    options = (
        click.option("--peer", "names", multiple=True, help="Compare with this peer only; repeatable."),
        click.option(
            "--peer-python",
            "pythons",
            multiple=True,
            metavar="NAME=PATH",
            help="Interpreter that has a peer, if it is another one than this; repeatable.",
        ),
    )
    return _with(options)(function)


def _with(options: tuple[Callable[[F], F], ...]) -> Callable[[F], F]:
    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@click.command()
@click.argument("cases", nargs=-1, metavar="[CASE...]")
@raced
@measured_by(1.0)
@reported
@reporting
def peers(cases: tuple[str, ...], **options: Any) -> None:
    """Measure callboard beside its peers, in turns, and say which targets it reaches.

    Peers are Dynamo, Ray, xoscar, and bare pyzmq and uvloop. What is not installed is skipped; what
    needs an environment of its own gets it by `--peer-python ray=/path/to/bin/python`. Cases are those
    of `callboard bench --list`, `ask_N` for any N in flight, and `ask_seq_p50` to `ask_seq_p999`.
    """
    from .compare import DEFAULT, OWN_ONLY

    _run(_Plan(cases or (*DEFAULT, *OWN_ONLY), (), **options))


@click.command()
@click.argument("curves", nargs=-1, metavar="[CURVE...]")
@measured_by(0.5)
@reported
@reporting
def growth(curves: tuple[str, ...], **options: Any) -> None:
    """Measure what a message costs with more actors, processes, waiting messages and streams."""
    from .growth import CURVES

    options["planes"] = options["planes"] or ("tcp",)
    _run(_Plan((), curves or tuple(CURVES), **options))


@click.command("all")
@raced
@measured_by(1.0)
@reported
@reporting
def everything(**options: Any) -> None:
    """Measure all of `peers`, asks with 1 to 1024 in flight, and `growth`: about an hour."""
    from .compare import DEFAULT, IN_FLIGHT, OWN_ONLY
    from .growth import CURVES

    cases = dict.fromkeys((*DEFAULT, *IN_FLIGHT, *OWN_ONLY))
    _run(_Plan(tuple(cases), tuple(CURVES), **options))


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.File())
@click.option("--facts", default="", help="How the run was made, for the document.")
@reported
@reporting
def report(files: tuple[TextIO, ...], facts: str, **options: Any) -> None:
    """Make tables, pictures and documents from saved lines, without measuring again."""
    lines: list[Line] = []
    for file in files:
        try:
            lines += read(file.read())
        except NotALine as error:
            raise click.UsageError(f"{file.name}: {error}") from None
    _tell(Results(lines), facts, **options)


class _Plan:
    """What a command is to do; everything that can be wrong with it is found before anything is measured."""

    def __init__(
        self,
        cases: tuple[str, ...],
        curves: tuple[str, ...],
        *,
        planes: tuple[str, ...],
        seconds: float,
        reps: int,
        as_json: bool,
        save: TextIO | None,
        names: tuple[str, ...] = (),
        pythons: tuple[str, ...] = (),
        **told: Any,
    ) -> None:
        from .compare import is_case
        from .drivers import PEERS, pythons_of
        from .growth import CURVES
        from .rig import settings_for

        for case in cases:
            if not is_case(case):
                from .table import CASES

                raise click.UsageError(f"no case {case!r}{did_you_mean(case, CASES)}")
        _known("curve", curves, CURVES)
        _known("peer", names, PEERS)
        try:
            self.pythons = pythons_of(pythons)
        except ValueError as error:
            raise click.UsageError(f"--peer-python: {error}") from None
        self.cases, self.curves = cases, curves
        self.planes = tuple(plane.lower() for plane in planes or PLANES)
        for plane in self.planes:
            settings_for(plane)
        self.names = names or tuple(PEERS)
        self.seconds, self.reps = seconds, reps
        self.as_json, self.save = as_json, save
        self.told = told

    async def lines(self) -> AsyncIterator[Line]:
        """Measure."""
        from . import compare, growth
        from .drivers import Drivers

        if self.cases:
            who = compare.contestants(self.names, self.planes)
            async with Drivers(self.pythons) as drivers:
                async for line in compare.compare(self.cases, who, self.seconds, self.reps, drivers):
                    yield line
        for plane in self.planes[:1] if self.cases else self.planes:
            async for line in growth.measure(self.curves, plane, self.seconds, self.reps):
                yield line


def _known(kind: str, names: tuple[str, ...], table: dict[str, Any]) -> None:
    for name in names:
        if name not in table:
            raise click.UsageError(
                f"no {kind} {name!r}{did_you_mean(name, table)}; {kind}s are: {', '.join(table)}"
            )


def _run(plan: _Plan) -> None:
    from . import plots, report
    from .rig import loop_factory

    if plan.told["plot"] is not None:
        plots.require()
    if plan.told["update"] is not None:
        report.rewrite(plan.told["update"], Results([]), "")  # has it a place for them?
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        results = Results(runner.run(_measured(plan)))
    facts = report.facts_of_this_machine(plan.seconds, plan.reps)
    _tell(results, facts, quiet=plan.as_json, **plan.told)
    if any(line.skipped.startswith("failed") for line in results.lines):
        raise SystemExit(1)


async def _measured(plan: _Plan) -> list[Line]:
    from .tables import number

    lines = []
    async for line in plan.lines():
        lines.append(line)
        text = json_line(line.as_json())
        if plan.save is not None:
            plan.save.write(text + "\n")
            plan.save.flush()
        if plan.as_json:
            click.echo(text)
        else:
            what = line.case if line.at is None else f"{line.case} {line.at}"
            value = f"skipped: {line.skipped}" if line.skipped else f"{number(line.value):>12} {line.unit}"
            click.echo(f"{line.peer:<14} {line.plane:<5} {what:<22} {value}")
    return lines


def _tell(
    results: Results, facts: str, *, plot: Path | None, png: bool, update: Path | None, quiet: bool = False
) -> None:
    from . import plots, report

    if not quiet:
        click.echo("\n" + report.text(results))
    if plot is not None:
        for file in plots.draw(results, plot, "png" if png else "svg"):
            click.echo(f"wrote {file}", err=True)
    if update is not None:
        report.rewrite(update, results, facts)
        click.echo(f"rewrote {update}", err=True)
