"""``callboard bench routing``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from callboard.supervisor.cli_errors import echo_json, reporting
from callboard.transports.errors import did_you_mean

if TYPE_CHECKING:
    from .routing import Row


@click.command()
@click.argument("routings", nargs=-1, metavar="[ROUTING...]")
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=click.FloatRange(0.01, 1000),
    help="Sessions that begin each second, repeatable; 1, 2 and 4.",
)
@click.option("--sessions", type=click.IntRange(1, 100_000), default=400, show_default=True)
@click.option("--engines", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the trace, and of random choices.")
@click.option(
    "--set",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the router for all that do not set it themselves, repeatable: prefill_load_scale=2.",
)
@click.option(
    "--live", is_flag=True, help="Real processes in real time, not virtual time; without the oracles."
)
@click.option(
    "--plane",
    type=click.Choice(("tcp", "ipc", "nats")),
    default="tcp",
    show_default=True,
    help="Request plane of --live.",
)
@click.option("--list", "as_list", is_flag=True, help="Show the routings, and measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one object a line, and no table.")
@click.option(
    "--plot", type=click.Path(path_type=Path, file_okay=False), help="Draw a picture into this directory."
)
@click.option(
    "--update",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Rewrite the generated part of this document.",
)
@reporting
def routing(
    routings: tuple[str, ...],
    rates: tuple[float, ...],
    sessions: int,
    engines: int,
    seed: int,
    options: tuple[str, ...],
    live: bool,
    plane: str,
    as_list: bool,
    as_json: bool,
    plot: Path | None,
    update: Path | None,
) -> None:
    """Compare the router's modes on a trace of chats with shared prefixes, beside oracles that know every cache.

    The router's own scheduler and index place the requests on simulated engines, in virtual time: the same trace gives
    the same figures on every machine. `--live` plays it through a real router, workers and event plane.
    """
    from callboard.serving.simulation.routing import ROUTINGS, RoutingTrial
    from callboard.serving.simulation.trace import TraceSettings

    from . import document, plots
    from . import routing as measuring

    if as_list:
        for name, sets in ROUTINGS.items():
            click.echo(f"{name:<18} {', '.join(f'{key} = {value}' for key, value in sets.items())}")
        return
    for name in routings:
        if name not in ROUTINGS:
            raise click.UsageError(
                f"no routing {name!r}{did_you_mean(name, ROUTINGS)}; routings are: {', '.join(ROUTINGS)}"
            )
    if plot is not None:
        plots.require()
    trial = RoutingTrial(
        trace=TraceSettings(sessions=sessions, seed=seed),
        engines=engines,
        options=measuring.router_options(options),
    )
    rows = []
    chosen = routings or tuple(ROUTINGS)
    if live:
        made = measuring.played(trial, chosen, rates or (2.0,), plane)
    else:
        made = measuring.replayed(trial, chosen, rates or measuring.RATES)
    for row in made:
        rows.append(row)
        if as_json:
            echo_json(row.as_json())
        else:
            click.echo(_line(row), err=True)
    text = measuring.tables(rows, trial)
    if not as_json:
        click.echo(text)
    if plot is not None:
        click.echo(f"wrote {measuring.draw(rows, plot)}", err=True)
    if update is not None:
        part = "routing_live" if live else "routing"
        found = update.read_text(encoding="utf-8")
        update.write_text(document.update(found, {part: text}, str(update)), encoding="utf-8")
        click.echo(f"rewrote {update}", err=True)


def _line(row: Row) -> str:
    result = row.result
    return (
        f"{row.sessions_per_s:>6g}/s {result.routing:<18} hits {result.hit_rate:6.1%}"
        f"  TTFT {result.mean_ttft_s * 1e3:8.1f} ms  spread {result.load_spread:.2f}"
    )
