"""``callboard up``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from .cli_errors import ExitCode, json_line, reporting

if TYPE_CHECKING:
    from .system import System

REMEMBERED = 1000


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--plane", help="Request plane, instead of what environment and file say.")
@click.option("--event-plane", help="Event plane, instead of what environment and file say.")
@click.option("--namespace", "-n", help="Namespace, instead of what environment and file say.")
@click.option(
    "--runtime-dir", type=click.Path(path_type=Path, file_okay=False), help="Directory for sockets and logs."
)
@click.option(
    "--nats-embedded",
    is_flag=True,
    help="Run a nats-server beside it; the plane is nats then, unless --plane names another (it runs all the same).",
)
@click.option(
    "--nats-server",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The program that --nats-embedded runs, instead of the installed one.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the status as one line of JSON when all is ready."
)
@reporting
def up(
    file: Path,
    plane: str | None,
    event_plane: str | None,
    namespace: str | None,
    runtime_dir: Path | None,
    nats_embedded: bool,
    nats_server: Path | None,
    as_json: bool,
) -> None:
    """Start what a config FILE describes and keep it alive until Ctrl-C, SIGTERM or `callboard stop`.

    Ctrl-C drains and stops it; a second one kills it. --nats-embedded needs no NATS: it runs one on a free
    port of this machine, with JetStream. What that stores is gone when the system stops.

    \b
    Exit codes: 0 stopped as asked, 1 something did not start (its traceback is shown) or failed too
    often, 2 mistakes in the file, 5 a system of that namespace is running already.
    """
    from .config import load
    from .system import System

    if nats_server is not None and not nats_embedded:
        raise click.UsageError("--nats-server is the program of --nats-embedded; give both")
    plane = "nats" if nats_embedded and plane is None else plane
    system = System.from_config(
        load(file, plane=plane, event_plane=event_plane, namespace=namespace),
        plane=plane,
        namespace=namespace,
        runtime_dir=runtime_dir,
        nats_embedded=nats_server or nats_embedded,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_run(system, as_json))
    raise SystemExit(code)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


async def _run(system: System, as_json: bool) -> ExitCode:
    from .errors import StartInterrupted

    stopping: set[asyncio.Task[None]] = set()

    def interrupted() -> None:
        if stopping:
            _say("killing", err=True)
            system.kill_all()
            return
        _say("stopping; once more to kill", err=True)
        stopping.add(asyncio.ensure_future(system.stop()))

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup has asked for it to be ignored
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, interrupted)
    printer = _Printer(system, quiet=as_json)
    try:
        await system.start()
    except StartInterrupted:
        return ExitCode.OK
    if as_json:
        printer.say_status()
    printer.all_ready()
    await system.wait_stopped()
    return ExitCode.OK


def _say(text: str, *, err: bool = False) -> None:
    """Print a line; the system outlives whoever reads it (``callboard up ... | head -1``)."""
    stream = sys.stderr if err else sys.stdout
    try:
        click.echo(text, err=err)
    except OSError:
        # What is left in its buffer would fail once more at exit, and change the exit code.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


class _Printer:
    """Prints a line for each process when it is ready, and what happens later."""

    def __init__(self, system: System, *, quiet: bool) -> None:
        self._system, self._quiet = system, quiet
        self._shown: set[str] = set()
        self._announced: dict[tuple[str, str], None] = {}
        """What was said, the latest `REMEMBERED`; an actor that starts again says the same again."""
        self._is_ready = False
        status = system.status()
        if not quiet:
            _say(f"callboard {status.namespace} · plane {status.plane} · events {status.event_plane}")
        if status.insecure:
            _say("  INSECURE: others than this machine may reach it without keys", err=True)
        system.on_change = self._changed
        system.on_event = self._event

    def say_status(self) -> None:
        """The status as one line of JSON."""
        _say(json_line(msgspec.to_builtins(self._system.status())))

    def all_ready(self) -> None:
        """Everything is up: from now on announcements are news."""
        self._is_ready = True
        self._changed()

    def _changed(self) -> None:
        if self._quiet:
            return
        status = self._system.status()
        width = max((len(process.name) for process in status.processes), default=0)
        for process in status.processes:
            if process.name in self._shown or process.state.value != "ready":
                continue
            self._shown.add(process.name)
            names = " ".join(actor.name for actor in process.actors)
            _say(f"  {process.name:<{width}}  pid {process.pid}  {names:<30}  ready  {process.ready_s:.1f} s")
        for entry in status.announcements if self._is_ready else ():
            if (entry.actor, entry.text) not in self._announced:
                self._announced[entry.actor, entry.text] = None
                if len(self._announced) > REMEMBERED:
                    del self._announced[next(iter(self._announced))]
                _say(f"  {entry.text}")

    def _event(self, text: str) -> None:
        _say(f"  {text}", err=True)
