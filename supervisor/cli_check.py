"""``callboard check`` and ``callboard schema``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from callboard.transports.errors import ConfigError

from .cli_errors import ExitCode, echo_json, reporting

if TYPE_CHECKING:
    from .spec import Config


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--plane", help="Request plane, instead of what environment and file say.")
@click.option("--event-plane", help="Event plane, instead of what environment and file say.")
@click.option("--namespace", "-n", help="Namespace, instead of what environment and file say.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@reporting
def check(
    file: Path, plane: str | None, event_plane: str | None, namespace: str | None, as_json: bool
) -> None:
    """Find every mistake in a config FILE, its wiring and its classes included. Nothing is started.

    \b
    Exit codes: 0 no mistakes, 2 mistakes (one line each).
    """
    from .config import load

    try:
        config = load(file, plane=plane, event_plane=event_plane, namespace=namespace)
    except ConfigError as error:
        if not as_json:
            raise
        echo_json({"file": str(file), "ok": False, "problems": list(error.problems)})
        raise SystemExit(ExitCode.USAGE) from None
    if as_json:
        echo_json({"file": str(file), "ok": True, "problems": [], **_counts(config)})
        return
    counts = _counts(config)
    click.echo(
        f"{_number(counts['actors'], 'actor')} in {_number(counts['processes'], 'process')},"
        f" plane {counts['plane']}"
    )


def _counts(config: Config) -> dict[str, Any]:
    from .placement import place

    plans = place(config.actors, config.processes, namespace=config.namespace)
    return {
        "namespace": config.namespace,
        "plane": config.network.request_plane,
        "event_plane": config.event_plane,
        "actors": sum(len(plan.instances) for plan in plans),
        "processes": len(plans),
    }


def _number(count: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{plural if count != 1 else ''}"


@click.command()
def schema() -> None:
    """Print the JSON Schema of config files, for editors.

    \b
    Exit codes: 0.
    """
    from .schema import config_schema

    echo_json(config_schema())
