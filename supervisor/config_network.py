"""The part of a config that says how processes are reached: file, environment and flag, each mistake at its source.

Every value is judged where it stands. What several values must fulfil together is judged once, of what holds in the
end: servers may stand in the file and their password in the environment.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from callboard.transports import nats_settings
from callboard.transports.errors import ConfigError, MissingExtra, UnknownScheme
from callboard.transports.events.names import DEFAULT, known_event_planes, unknown_event_plane
from callboard.transports.nats_settings import NatsSettings
from callboard.transports.setting_rules import Problem, named
from callboard.transports.settings import (
    NetworkSettings,
    defaults,
    event_plane_from_env,
    plane_from_env,
    problems,
    read_environment,
)

from . import config_keys as keys
from .config_reader import Reader
from .spec import Config
from .toml_source import Path

NETWORK: Path = ("network",)
NATS: Path = ("network", "nats")
EVENT_PLANE_VARIABLE = "DYN_EVENT_PLANE"


def read_network(
    reader: Reader, mode: str | None, flag: str | None, environ: Mapping[str, str], directory: str
) -> NetworkSettings:
    """Return what holds: flag before environment before file before default; mistakes are noted in ``reader``.

    ``mode`` is the request plane of the file, ``directory`` the one that paths in the file are relative to.
    """
    values = defaults() | {"nats": _nats(reader, environ, directory)}
    read = reader.table(NETWORK, reader.source.data.get("network", {}), keys.network_keys(), ("nats",))
    if read.get("ipc_directory"):
        read["ipc_directory"] = os.path.abspath(os.path.join(directory, read["ipc_directory"]))
    if mode is not None and _plane_is_valid(reader, mode, ("request_plane",)):
        read["request_plane"] = mode.lower()
    values |= _sound(reader, NETWORK, read, problems(values | read))
    changes, causes, lines = read_environment(environ)
    plane, warning = plane_from_env(environ)
    lines += _warn(warning, "tcp", bool(values["strict_env"]))
    if plane and _plane_is_valid(reader, plane, "environment: DYN_REQUEST_PLANE"):
        changes["request_plane"] = plane
    if flag is not None and _plane_is_valid(reader, flag, "--plane"):
        changes["request_plane"] = flag.lower()
    for line in lines:
        reader.outside("environment", line)
    found = problems(values | changes)
    for problem in found:
        _report(reader, NETWORK, problem, read, {**causes, **_nats_causes(environ)})
    if found:
        return NetworkSettings()
    settings = NetworkSettings(**values | changes)
    if settings.request_plane == "nats":
        _check_extras(reader, settings.nats, environ)
    return settings


def _check_extras(reader: Reader, nats: NatsSettings, environ: Mapping[str, str]) -> None:
    try:
        nats.require_extras()
    except MissingExtra as error:
        used = nats.credentials.value if nats.credentials else ()
        if any(environ.get(variable) for variable, name in nats_settings.VARIABLES.items() if name in used):
            reader.outside("environment", str(error))
        else:
            reader.problem((*NATS, *used[:1]), str(error))


def read_event_plane(reader: Reader, mode: str | None, flag: str | None, environ: Mapping[str, str]) -> str:
    """Return the event plane: flag before environment before file before default."""
    table = reader.source.data.get("network")
    plane, warning = event_plane_from_env(environ)
    for line in _warn(warning, plane, isinstance(table, dict) and table.get("strict_env") is True):
        reader.outside("environment", line)
    found = plane or mode or DEFAULT
    if flag is not None and flag.lower() in known_event_planes():
        return flag.lower()
    if flag is not None:
        reader.outside("--event-plane", unknown_event_plane(flag))
    return found


def with_planes(settings: NetworkSettings, plane: str | None, event_plane: str | None) -> NetworkSettings:
    """Return settings with other planes, where they are given. Raises `ConfigError` for an unknown event plane."""
    changes: dict[str, Any] = {"request_plane": plane, "event_plane": event_plane}
    made = replace(settings, **{name: value for name, value in changes.items() if value is not None})
    if made.event_plane not in known_event_planes():
        raise ConfigError(unknown_event_plane(made.event_plane))
    return made


def overlay(config: Config, namespace: str | None, plane: str | None, event_plane: str | None) -> Config:
    """Return a config with another namespace and other planes, where they are given. Raises `ConfigError`."""
    settings = with_planes(config.network, plane, event_plane or config.event_plane)
    namespace, events = namespace or config.namespace, settings.event_plane
    return replace(config, namespace=namespace, network=settings, event_plane=events)


def _warn(warning: str, instead: str, is_strict: bool) -> list[str]:
    """Say loudly what is wrong with a variable, and what holds instead; or return it as a mistake."""
    if warning and not is_strict:
        warnings.warn(f"{warning}; falling back to {instead}", RuntimeWarning, stacklevel=3)
    return [warning] if warning and is_strict else []


def _nats(reader: Reader, environ: Mapping[str, str], directory: str) -> NatsSettings:
    table = reader.source.data.get("network", {})
    given = table.get("nats", {}) if isinstance(table, dict) else {}
    read = reader.table(NATS, given, keys.nats_keys())
    for name in nats_settings.PATHS:
        if read.get(name):
            read[name] = os.path.abspath(os.path.join(directory, read[name]))
    base = nats_settings.plain(NatsSettings())
    sound = _sound(reader, NATS, read, nats_settings.problems(base | read))
    changes, causes, lines = nats_settings.read_environment(environ)
    for line in lines:
        reader.outside("environment", line)
    values = nats_settings.overlay(base | sound, changes)
    found = nats_settings.problems(values)
    for problem in found:
        _report(reader, NATS, problem, read, causes)
    return NatsSettings() if found else NatsSettings(**values)


def _nats_causes(environ: Mapping[str, str]) -> dict[str, str]:
    return {"NATS_SERVER": "nats"} if environ.get("NATS_SERVER", "").strip() else {}


def _sound(reader: Reader, path: Path, read: dict[str, Any], found: list[Problem]) -> dict[str, Any]:
    """Note what is wrong with single values of the file, and return the others."""
    alone = [problem for problem in found if len(problem.fields) == 1 and problem.fields[0] in read]
    for problem in alone:
        reader.problem((*path, problem.fields[0]), problem.text)
    wrong = {problem.fields[0] for problem in alone}
    return {name: value for name, value in read.items() if name not in wrong}


def _report(
    reader: Reader, path: Path, problem: Problem, read: Mapping[str, Any], causes: Mapping[str, str]
) -> None:
    variables = [variable for variable, name in causes.items() if name in problem.fields]
    if variables:
        reader.outside("environment", named(variables, problem))
        return
    key = next((name for name in problem.fields if name in read), problem.fields[0])
    reader.problem((*NATS, "servers") if key == "nats" else (*path, key), problem.text)


def _plane_is_valid(reader: Reader, mode: str, place: Path | str) -> bool:
    from callboard.transports.registry import get_plane
    from callboard.transports.schemes import known_schemes

    what = ""
    try:
        if not get_plane(mode.lower()).capabilities.between_processes:
            what = f"the {mode} plane cannot connect processes; use it in tests that stay in one process"
    except UnknownScheme:
        what = f'invalid request plane mode "{mode}"; valid are: {", ".join(sorted(known_schemes()))}'
    except ImportError as error:
        what = str(error)
    if not what:
        return True
    if isinstance(place, str):
        reader.outside(place, what)
    else:
        reader.problem(place, what)
    return False
