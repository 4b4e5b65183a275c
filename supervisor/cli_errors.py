"""What all commands share: options that choose a system, and errors as messages with exit codes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

import click

from callboard.transports.errors import CallboardError, ConfigError

from .errors import AlreadyRunning, NotRunning

F = TypeVar("F", bound=Callable[..., Any])


class ExitCode(IntEnum):
    """Exit codes of all commands; the help of the group documents them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    TIMED_OUT = 4
    ALREADY_RUNNING = 5


def system_options(function: F) -> F:
    """Add ``--namespace`` and ``--runtime-dir``."""
    directory = click.Path(path_type=Path, file_okay=False)
    for option in (
        click.option("--runtime-dir", type=directory, help="Runtime directory of the system."),
        click.option("--namespace", "-n", help="Namespace of the system."),
    ):
        function = option(function)
    return function


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code for an error that ends a command."""
    kinds: list[tuple[type[BaseException], ExitCode]] = [
        (NotRunning, ExitCode.NOT_RUNNING),
        (AlreadyRunning, ExitCode.ALREADY_RUNNING),
        (ConfigError, ExitCode.USAGE),
        (TimeoutError, ExitCode.TIMED_OUT),
    ]
    return next((code for kind, code in kinds if isinstance(error, kind)), ExitCode.FAILED)


def reporting(function: F) -> F:
    """Turn callboard's errors into one message on standard error and the exit code that fits."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (CallboardError, TimeoutError) as error:
            click.echo(str(error) or type(error).__name__, err=True)
            sys.exit(exit_code_of(error))

    return wrapped  # type: ignore[return-value]


def echo_json(data: Any) -> None:
    """Print one line of JSON."""
    click.echo(json_line(data))


def json_line(data: Any) -> str:
    """JSON without line breaks, whatever it takes."""
    import orjson

    option = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(data, default=_plain, option=option).decode()


def _plain(value: Any) -> Any:
    """What orjson does not know but msgpack carries."""
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, bytes | bytearray | memoryview):
        import base64

        return base64.b64encode(value).decode()
    return repr(value)
