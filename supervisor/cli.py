"""The ``callboard`` command. Only click is imported here; each command brings its own when it runs."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("callboard.supervisor.cli_up:up", "Start what a config file describes; Ctrl-C stops it."),
    "check": ("callboard.supervisor.cli_check:check", "Find every mistake in a config file."),
    "doctor": ("callboard.supervisor.cli_doctor:doctor", "Say what is wrong with a config and around it."),
    "ps": ("callboard.supervisor.cli_ps:ps", "Show processes and actors of a running system."),
    "call": ("callboard.supervisor.cli_call:call", "Call a method of a running actor: JSON in, JSON out."),
    "replay": (
        "callboard.supervisor.cli_replay:replay",
        "Have a durable component handle its stored messages again.",
    ),
    "stop": ("callboard.supervisor.cli_stop:stop", "Drain and stop a running system."),
    "schema": ("callboard.supervisor.cli_check:schema", "Print the JSON Schema of config files."),
    "bench": ("callboard.bench.cli:bench", "Measure callboard on this machine, alone or beside its peers."),
}
"""Name, where it is, and its line in ``--help``, so that help imports none of them."""


def open_standard_descriptors() -> None:
    """Open /dev/null in the place of standard streams that the caller has closed.

    Else the next socket gets such a number, and libuv aborts the process when it closes that.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given, and those below are open by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


class LazyGroup(click.Group):
    """Imports a command when it is asked for."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command, with something open on each of the standard descriptors."""
        open_standard_descriptors()
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a wrong name gets the nearest right one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from callboard.transports.errors import did_you_mean

            ctx.fail(f"no such command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _version(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"callboard {version('callboard')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
def main() -> None:
    """Actors in processes, supervised, over an exchangeable request plane.

    \b
    Exit codes of all commands:
      0  done
      1  failed: a start, an actor, a running system
      2  wrong usage, or mistakes in a config file
      3  no such system is running
      4  timed out
      5  a system of that namespace is running already
    """
