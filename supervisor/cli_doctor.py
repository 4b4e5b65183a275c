"""``callboard doctor``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from callboard.transports.errors import ConfigError

from .cli_errors import ExitCode, echo_json, reporting

if TYPE_CHECKING:
    from .doctor_facts import Finding


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--plane", help="Request plane, instead of what environment and file say.")
@click.option("--event-plane", help="Event plane, instead of what environment and file say.")
@click.option("--namespace", "-n", help="Namespace, instead of what environment and file say.")
@click.option(
    "--runtime-dir", type=click.Path(path_type=Path, file_okay=False), help="Runtime directory of the system."
)
@click.option("--nats-embedded", is_flag=True, help="As it will be started: with a nats-server beside it.")
@click.option(
    "--nats-server",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The program that --nats-embedded will run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@reporting
def doctor(
    file: Path,
    plane: str | None,
    event_plane: str | None,
    namespace: str | None,
    runtime_dir: Path | None,
    nats_embedded: bool,
    nats_server: Path | None,
    as_json: bool,
) -> None:
    """Say what is wrong with a config FILE, with what runs of it, and with what it needs around it.

    One line per check: ok, warning or problem, the name of the check in docs/troubleshooting.md, what was
    found, and what to do. Nothing is started and nothing is changed.

    \b
    Exit codes: 0 no problems, 1 problems, 2 mistakes in the file.
    """
    from .doctor import gather
    from .doctor_checks import config_findings, examine

    try:
        facts = asyncio.run(
            gather(
                file,
                plane=plane,
                event_plane=event_plane,
                namespace=namespace,
                runtime_dir=runtime_dir,
                nats_embedded=nats_embedded or nats_server is not None,
                nats_server=nats_server,
            )
        )
    except ConfigError as error:
        _show(file, config_findings(error.problems), as_json)
        raise SystemExit(ExitCode.USAGE) from None
    if not _show(file, examine(facts), as_json):
        raise SystemExit(ExitCode.FAILED)


def _show(file: Path, findings: list[Finding], as_json: bool) -> bool:
    """Print the findings; returns True if there is no problem among them."""
    counts = {
        level: sum(finding.level.value == level for finding in findings) for level in ("problem", "warning")
    }
    if as_json:
        shown = [{"check": f.check, "level": f.level.value, "text": f.text, "do": f.do} for f in findings]
        echo_json({"file": str(file), "ok": not counts["problem"], "findings": shown})
    else:
        for line in lines_of(findings):
            click.echo(line)
        click.echo(", ".join(_number(count, level) for level, count in counts.items()))
    return not counts["problem"]


def lines_of(findings: list[Finding]) -> list[str]:
    """The findings as text, one line each: level, check, what was found, what to do."""
    width = max(len(finding.check) for finding in findings)
    return [
        f"{finding.level.value:<7}  {finding.check:<{width}}  {'; '.join(filter(None, (finding.text, finding.do)))}"
        for finding in findings
    ]


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
