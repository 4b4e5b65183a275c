"""``callboard bench``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from callboard.supervisor.cli_errors import echo_json, reporting
from callboard.transports.errors import did_you_mean

from .cli_compare import everything, growth, peers, report
from .cli_costs import costs
from .cli_index import index
from .cli_routing import routing
from .tables import number

if TYPE_CHECKING:
    from .run import Result


class BenchGroup(click.Group):
    """A group in which ``cases`` is meant when no command is named: ``callboard bench ask_64``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default in the place of the missing name."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["cases", *args]
        return super().parse_args(ctx, args)


@click.group(cls=BenchGroup)
def bench() -> None:
    """Measure callboard on this machine, alone or beside its peers.

    `callboard bench [CASE...] [OPTION...]` is short for `callboard bench cases`. Absolute figures drift from
    machine to machine and from minute to minute: compare within one run.
    """


@bench.command("cases")
@click.argument("cases", nargs=-1, metavar="[CASE...]")
@click.option("--plane", default="tcp", show_default=True, help="Request plane: memory, ipc, tcp or nats.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    help="Length of one measurement.",
)
@click.option(
    "--reps", type=click.IntRange(1, 100), default=3, show_default=True, help="Measurements of each case."
)
@click.option("--list", "as_list", is_flag=True, help="Show what can be measured, and measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one object a line.")
@reporting
def cases_command(
    cases: tuple[str, ...], plane: str, seconds: float, reps: int, as_list: bool, as_json: bool
) -> None:
    """Measure the request plane on this machine; all cases, or those that are named.

    Client and server are separate processes, and `--plane tcp` really is TCP, without the short cut that
    processes of one host take otherwise; `--plane nats` starts a nats-server of its own. Absolute figures drift:
    compare within one run, for example with `floor_zmq`, the round trip that no runtime on zmq can beat.

    \b
    Exit codes: 0 measured, 1 a case failed, 2 unknown case or plane.
    """
    from .rig import loop_factory
    from .table import CASES

    if as_list:
        for case in CASES.values():
            click.echo(f"{case.name:<12} {case.unit:<8} {case.better.value:<7} is better   {case.what}")
        return
    for name in cases:
        if name not in CASES:
            raise click.UsageError(
                f"no case {name!r}{did_you_mean(name, CASES)}; cases are: {', '.join(CASES)}"
            )
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_bench(cases or tuple(CASES), plane.lower(), seconds, reps, as_json))


async def _bench(cases: tuple[str, ...], plane: str, seconds: float, reps: int, as_json: bool) -> None:
    from .rig import settings_for
    from .run import run

    settings_for(plane)
    results: dict[str, Result] = {}
    async for result in run(cases, plane, seconds, reps):
        results[result.case] = result
        if as_json:
            echo_json(result.as_json())
        else:
            click.echo(line_of(result))
    if not as_json and (ratio := ratio_to_floor(results)):
        click.echo(f"ask_seq_p50 is {ratio:.2f} x floor_zmq")


def ratio_to_floor(results: dict[str, Result]) -> float:
    """Sequential ask over the yardstick of the same run; 0 if either is missing."""
    floor, ask = results.get("floor_zmq"), results.get("ask_seq_p50")
    return ask.value / floor.value if floor and ask and floor.values and ask.values else 0.0


def line_of(result: Result) -> str:
    """One line of the table."""
    head = f"{result.case:<12} {result.plane:<7}"
    if result.skipped:
        return f"{head} skipped: {result.skipped}"
    low, high = min(result.values), max(result.values)
    return f"{head} {number(result.value):>12} {result.unit:<8} ({number(low)} .. {number(high)})"


for _command in (peers, growth, costs, index, routing, everything, report):
    bench.add_command(_command)
