"""What a script asks for when it spawns an actor: the name it gets, and what is wrong with the rest. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from callboard.actors.actor import Actor, objection
from callboard.actors.policy import MailboxPolicy
from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import ConfigError

from .placement import ProcessPlan, place
from .spec import ActorSpec, ProcessSpec, RestartPolicy


def snake_case(name: str) -> str:
    """The default name of an actor.

    >>> snake_case("KVRouter"), snake_case("Worker")
    ('kv_router', 'worker')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().lstrip("_")


def check_spawn(
    cls: Any, name: str, replicas: int, processes: int, taken: Collection[str], *, passing: bool = False
) -> None:
    """Raise `ConfigError` with everything that is wrong; ``taken`` are the names of actors and processes.

    ``passing``: messages would be stored in a namespace that no other system will ever have.
    """
    problems = []
    if why := objection(cls):
        problems.append(why)
    if name in taken:
        problems.append(f'there is an actor or a process called "{name}" already; choose another name')
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        problems.append(f'"{name}" is no name: it takes letters, digits, "-" and "_" after a letter')
    if replicas < 1:
        problems.append(f"replicas is {replicas}; it must be at least 1")
    if not 1 <= processes <= max(1, replicas):
        problems.append(f"processes is {processes}; it must be between 1 and replicas, which is {replicas}")
    if passing:
        problems.append(
            f"{name} is durable in a namespace made up for this run: nobody would find its messages again;"
            ' give it one that stays: System(namespace="...")'
        )
    if problems:
        raise ConfigError(problems)


def plan_spawn(
    cls: type[Actor],
    name: str,
    payload: bytes,
    *,
    namespace: str,
    replicas: int,
    processes: int,
    env: Mapping[str, str] | None,
    restart: RestartPolicy | None,
    mailbox: MailboxPolicy | None,
    durable: DurablePolicy | bool,
) -> list[ProcessPlan]:
    """Return the processes of a component that a script spawns, with ``payload`` as in `ActorSpec`."""
    spec = ActorSpec(
        name=name,
        class_path=f"{cls.__module__}:{cls.__qualname__}",
        payload=payload,
        replicas=replicas,
        mailbox=mailbox,
        restart=restart or RestartPolicy(),
        durable=durable if isinstance(durable, DurablePolicy) else DurablePolicy() if durable else None,
    )
    group = ProcessSpec(name=name, actors=(name,), count=processes, env=env or {})
    return place([spec], [group], namespace=namespace)
