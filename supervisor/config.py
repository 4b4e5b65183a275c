"""Loads a config file and reports every mistake in it at once, each as ``FILE:LINE  place: what``.

Precedence, highest first: arguments of `load` (flags of the command line), environment, file, default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callboard.actors.policy import MailboxPolicy, Overflow
from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import ConfigError

from . import config_keys as keys
from .config_checks import check_classes, check_durable, check_placement, check_ports, check_wiring
from .config_network import read_event_plane, read_network
from .config_reader import Problem, Reader
from .spec import (
    ActorSpec,
    Config,
    Limits,
    ProcessSpec,
    RestartKind,
    RestartPolicy,
    Strategy,
)
from .toml_source import parse_toml

NAMESPACE_VARIABLE = "DYN_NAMESPACE"
TABLES = ("actor", "process", "network", "supervisor")

Planes = tuple[str | None, str | None]
"""Request plane and event plane of flags."""


def load(
    path: str | os.PathLike[str],
    *,
    plane: str | None = None,
    event_plane: str | None = None,
    namespace: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read and check a TOML file, importing the classes that it names; nothing is started.

    Raises `ConfigError` whose ``problems`` are all mistakes in the order of their lines.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from error
    planes = (plane, event_plane)
    return _parse(text, Path(path), planes, namespace, os.environ if environ is None else environ)


def parse(
    text: str,
    *,
    file: Path,
    plane: str | None = None,
    event_plane: str | None = None,
    namespace: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Do what `load` does with a text; ``file`` names it, and modules are searched beside it first."""
    return _parse(text, file, (plane, event_plane), namespace, os.environ if environ is None else environ)


def _parse(
    text: str, file: Path, planes: Planes, namespace: str | None, environ: Mapping[str, str]
) -> Config:
    reader = Reader(parse_toml(text))
    config = _read(reader, file, planes, namespace, environ)
    check_wiring(reader, config)
    check_placement(reader, config)
    check_durable(reader, config)
    check_ports(reader, config, environ)
    check_classes(reader, config)
    if reader.problems:
        raise ConfigError(format_problems(reader.problems, file))
    return config


def format_problems(problems: set[Problem], file: Path) -> list[str]:
    """The problems as lines of text in the order of the file, places aligned."""
    heads = {p: f"{file}:{p.line}" if p.line else "" for p in problems}
    width = max(map(len, heads.values()))
    return [
        f"{heads[p]:<{width}}  {p.place}: {p.what}" if p.place else f"{heads[p]:<{width}}  {p.what}"
        for p in sorted(problems)
    ]


def _read(
    reader: Reader, file: Path, planes: Planes, namespace: str | None, environ: Mapping[str, str]
) -> Config:
    plane, event_plane = planes
    top = reader.table((), reader.source.data, keys.TOP, TABLES)
    supervisor = reader.table(("supervisor",), reader.source.data.get("supervisor", {}), keys.SUPERVISOR)
    strategy = Strategy(supervisor.pop("strategy", Strategy.ONE_FOR_ONE.value))
    actors = [_actor(reader, name, table) for name, table in reader.named_tables("actor").items()]
    processes = [_process(reader, name, table) for name, table in reader.named_tables("process").items()]
    return Config(
        namespace=_namespace(reader, top, namespace, environ),
        actors=tuple(actors),
        processes=tuple(processes),
        network=read_network(reader, top.get("request_plane"), plane, environ, str(file.absolute().parent)),
        event_plane=read_event_plane(reader, top.get("event_plane"), event_plane, environ),
        strategy=strategy,
        limits=Limits(**supervisor),
        path=file,
        import_paths=(str(file.absolute().parent), str(Path.cwd())),
    )


def _namespace(reader: Reader, top: dict[str, Any], flag: str | None, environ: Mapping[str, str]) -> str:
    for source, value in (("--namespace", flag), (NAMESPACE_VARIABLE, environ.get(NAMESPACE_VARIABLE))):
        if value:
            if what := keys.not_a_name(value):
                reader.outside(source, what)
            return value
    return str(top.get("namespace", "default"))


def _actor(reader: Reader, name: str, table: dict[str, Any]) -> ActorSpec:
    path = ("actor", name)
    if not keys.NAME.fullmatch(name):
        reader.problem(path, f'"{name}" is no name: it takes letters, digits, "-" and "_" after a letter')
    read = reader.table(path, table, keys.ACTOR, ("mailbox", "restart", "durable"))
    if "class" not in table and path not in reader.source.damaged:
        reader.problem(path, 'has no class; give it one: class = "module:Class"')
    args = read.get("args", {})
    return ActorSpec(
        name=name,
        class_path=read.get("class", ""),
        args=tuple(args) if isinstance(args, list) else (),
        kwargs=args if isinstance(args, dict) else {},
        replicas=read.get("replicas", 1),
        mailbox=_mailbox(reader, (*path, "mailbox"), table),
        restart=_restart(reader, (*path, "restart"), table),
        durable=_durable(reader, (*path, "durable"), table.get("durable", False)),
    )


def _mailbox(reader: Reader, path: tuple[str, ...], table: dict[str, Any]) -> MailboxPolicy | None:
    if "mailbox" not in table:
        return None
    read = reader.table(path, table["mailbox"], keys.MAILBOX)
    if "overflow" in read:
        read["overflow"] = Overflow(read["overflow"])
    return MailboxPolicy(**read)


def _restart(reader: Reader, path: tuple[str, ...], table: dict[str, Any]) -> RestartPolicy:
    read = reader.table(path, table.get("restart", {}), keys.RESTART)
    if "policy" in read:
        read["policy"] = RestartKind(read["policy"])
    return RestartPolicy(**read)


def _durable(reader: Reader, path: tuple[str, ...], value: Any) -> DurablePolicy | None:
    if isinstance(value, bool):
        return DurablePolicy() if value else None
    if not isinstance(value, dict):
        reader.problem(path, f"takes true, false or a table, not {keys.show(value)}")
        return None
    read = reader.table(path, value, keys.DURABLE)
    try:
        return DurablePolicy(**read)
    except ConfigError as error:
        for line in error.problems:
            name = line.partition(" ")[0].removeprefix("durable.")
            reader.problem((*path, name), line)
        return DurablePolicy()


def _process(reader: Reader, name: str, table: dict[str, Any]) -> ProcessSpec:
    path = ("process", name)
    if not keys.NAME.fullmatch(name):
        reader.problem(path, f'"{name}" is no name: it takes letters, digits, "-" and "_" after a letter')
    read = reader.table(path, table, keys.PROCESS)
    if not table.get("actors") and path not in reader.source.damaged:
        reader.problem(path, 'has no actors; name them: actors = ["name"]')
    return ProcessSpec(
        name=name, actors=tuple(read.get("actors", ())), count=read.get("count", 1), env=read.get("env", {})
    )
