"""Checks of a whole config: references, placement, and classes with their constructors."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from callboard.actors.directory import split_name
from callboard.transports.errors import did_you_mean

from . import ports
from .config_arguments import check_arguments
from .config_keys import show
from .config_reader import Reader
from .placement import PLACEHOLDER, PLACEHOLDERS, component_of, find_cycle, with_defaults
from .spec import ActorSpec, Config
from .toml_source import Path


def check_wiring(reader: Reader, config: Config) -> None:
    """Every reference names an actor of the config, and actors can be started in some order."""
    specs = {spec.name: spec for spec in config.actors}
    if not specs and not reader.source.damaged:
        reader.problem((), "there are no actors; declare one: [actor.name]")
    for spec in config.actors:
        args: Any = list(spec.args) or dict(spec.kwargs)
        for path, name in _references(("actor", spec.name, "args"), args):
            _check_reference(reader, path, name, specs)
    if cycle := find_cycle(config.actors):
        reader.problem(
            ("actor", cycle[0], "args"),
            f"references form a cycle, so that none can start first: {' → '.join(cycle)};"
            " pass one of them in a message instead",
        )


def _references(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    """The places of all references in a value; what looks like one but is none, too."""
    if isinstance(value, dict) and value.keys() == {"ref"}:
        yield path, value["ref"]
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _references((*path, key), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references((*path, index), item)


def _check_reference(reader: Reader, path: Path, name: Any, specs: Mapping[str, ActorSpec]) -> None:
    if not isinstance(name, str):
        reader.problem(path, f"a reference takes the name of an actor, not {show(name)}")
        return
    component = component_of(name, specs)
    if component not in specs:
        known = f"actors are: {', '.join(specs)}{did_you_mean(component, specs)}"
        reader.problem(path, f'refers to "{name}"; {known}')
        return
    index = None if name in specs else split_name(name)[1]
    if index is not None and index >= specs[component].replicas:
        last = f"{component}.{specs[component].replicas - 1}"
        reader.problem(path, f'refers to "{name}"; the last instance is "{last}"')


def check_placement(reader: Reader, config: Config) -> None:
    """Every actor is in one process at most, no process is empty, and no name means two things."""
    specs = {spec.name: spec for spec in config.actors}
    home: dict[str, str] = {}
    for group in config.processes:
        path: Path = ("process", group.name)
        for index, name in enumerate(group.actors):
            if name not in specs:
                what = (
                    f'there is no actor "{name}"; actors are: {", ".join(specs)}{did_you_mean(name, specs)}'
                )
                reader.problem((*path, "actors", index), what)
            elif name in home:
                where = "twice" if home[name] == group.name else f"in process.{home[name]} already"
                reader.problem(
                    (*path, "actors", index), f'actor "{name}" is {where}; it can be in one process'
                )
            else:
                home[name] = group.name
        replicas = [specs[name].replicas for name in group.actors if name in specs]
        if replicas and group.count > max(replicas):
            reader.problem(
                (*path, "count"),
                f"{group.count} processes for {max(replicas)} replicas of {', '.join(group.actors)}:"
                " some would be empty; raise replicas or lower count",
            )
        if group.name in specs and group.name not in group.actors:
            reader.problem(
                path, f"has the name of actor.{group.name}, which is not in it; rename the process"
            )
        for variable, text in group.env.items():
            for word in PLACEHOLDER.findall(text):
                if word not in PLACEHOLDERS:
                    what = f"unknown placeholder {{{word}}}; known: {{index}}, {{namespace}}"
                    reader.problem((*path, "env", variable), what + did_you_mean(word, PLACEHOLDERS))


def check_durable(reader: Reader, config: Config) -> None:
    """What is durable can be stored: the plane is one that does it."""
    from callboard.transports.registry import get_plane

    scheme = config.network.request_plane
    durable = [spec.name for spec in config.actors if spec.durable is not None]
    sources = ("network", "request_plane", "environment", "--plane")
    if not durable or any(problem.place.startswith(sources) for problem in reader.problems):
        return
    if not get_plane(scheme).capabilities.durable:
        for name in durable:
            what = f'needs the nats request plane, and it is {scheme}; set request_plane = "nats"'
            reader.problem(
                ("actor", name, "durable"), f"{what} (DYN_REQUEST_PLANE, --plane), or leave durable out"
            )


def check_ports(reader: Reader, config: Config, environ: Mapping[str, str]) -> None:
    """There is a port for every process, if the first one is fixed."""
    processes = sum(group.count for group in with_defaults(config.actors, config.processes))
    if what := ports.problem(config.network, processes):
        if environ.get("DYN_TCP_RPC_PORT", "").strip():
            reader.outside("environment", what)
        else:
            reader.problem(("network", "port"), what)


def check_classes(reader: Reader, config: Config) -> None:
    """Every class can be imported, is an actor, and takes the arguments given, by its own checks, too."""
    with importing_from(config.import_paths):
        for spec in config.actors:
            if not spec.class_path:
                continue
            path: Path = ("actor", spec.name)
            found = find_class(spec.class_path)
            if isinstance(found, str):
                reader.problem((*path, "class"), found)
            else:
                check_arguments(reader, (*path, "args"), found, spec)


def find_class(class_path: str) -> type | str:
    """The actor class that "module:Class" names, or what is wrong with it."""
    from callboard.actors.actor import Actor, objection

    module_name, _, qualname = class_path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a user's module raises, or its end of the program
        return f'cannot import "{module_name}": {type(error).__name__}: {error}'
    for part in qualname.split("."):
        if not hasattr(found, part):
            classes = [n for n, v in vars(found).items() if isinstance(v, type) and issubclass(v, Actor)]
            return f'"{module_name}" has no class "{qualname}"{did_you_mean(part, classes)}'
        found = getattr(found, part)
    if not isinstance(found, type) or not issubclass(found, Actor):
        return f'"{class_path}" is not an actor; derive it from callboard.Actor'
    return objection(found) or found


@contextmanager
def importing_from(directories: tuple[str, ...]) -> Iterator[None]:
    """Search these directories first; what was imported from them alone is forgotten at the end.

    Another config beside another module of the same name must not meet the first one.
    """
    added = [directory for directory in directories if directory not in sys.path]
    before = set(sys.modules)
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for directory in added:
            sys.path.remove(directory)
        new = set(sys.modules) - before
        for name in [name for name in new if _lives_in(name.partition(".")[0], added)]:
            del sys.modules[name]


def _lives_in(package: str, directories: list[str]) -> bool:
    module = sys.modules.get(package)
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return False
    places = spec.submodule_search_locations or [spec.origin or ""]
    parents = {os.path.dirname(place) for place in places}
    return package != "callboard" and not parents.isdisjoint(directories)
