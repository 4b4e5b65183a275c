"""The NATS service protocol (ADR-32): what stock NATS tools are told of an actor. Pure.

Each exposed actor is a service: its name is that of the component, its id is new for each incarnation. Requests come
on ``$SRV.{verb}``, ``$SRV.{verb}.{name}`` and ``$SRV.{verb}.{name}.{id}``; the verbs are PING, INFO and STATS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

import orjson

from .base import Endpoint, Identity
from .nats_subjects import Subjects, token

PREFIX = "$SRV"
ERROR_HEADER, CODE_HEADER = "Nats-Service-Error", "Nats-Service-Error-Code"
LONGEST_ERROR = 500
"""Characters of an error that go into a header."""

_FOREIGN = re.compile(rb"_(?=[0-9A-F]{2})|[^A-Za-z0-9_-]")
_VERSION = re.compile(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?[.+-]?(.*)")


def service_name(component: str) -> str:
    """Return a component's name in the letters of the protocol: A-Z, a-z, 0-9, ``-`` and ``_``.

    What else is in it is written as ``_`` and two hexadecimal digits per byte; different names stay different.

    >>> service_name("my_worker"), service_name("a.b"), service_name("a_2Eb")
    ('my_worker', 'a_2Eb', 'a_5F2Eb')
    """
    if not component:
        return "_FF"  # a byte that is in no text
    raw = component.encode("utf-8", "surrogatepass")
    return _FOREIGN.sub(lambda found: b"_%02X" % found.group()[0], raw).decode()


def semantic(version: str) -> str:
    """Return a version of a Python package as a semantic version.

    >>> semantic("0.1.0"), semantic("1.2rc1"), semantic("1.2.3.dev4+local")
    ('0.1.0', '1.2.0-rc1', '1.2.3-dev4-local')
    """
    found = _VERSION.match(version)
    if found is None:
        return "0.0.0"
    numbers = ".".join(str(int(part or 0)) for part in found.groups()[:3])
    rest = re.sub(r"[^0-9A-Za-z-]+", "-", found[4]).strip("-")
    if rest.isdecimal():
        rest = f"post{rest}"  # a number must not begin with 0
    return f"{numbers}-{rest}" if rest else numbers


@cache
def our_version() -> str:
    """Return the version of callboard as a semantic version."""
    try:
        return semantic(version_of("callboard"))
    except PackageNotFoundError:
        return "0.0.0"


def error_headers(code: int, error: str) -> dict[str, str]:
    """Return the headers of an answer that is an error: one line of printable ASCII, whatever the error says."""
    line = error.encode("ascii", "backslashreplace").decode()
    line = "".join(character if character.isprintable() else "?" for character in line)
    return {ERROR_HEADER: line[:LONGEST_ERROR], CODE_HEADER: str(code)}


@dataclass(slots=True)
class Tally:
    """Requests of strangers that came on one subject and were answered, and what became of them."""

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    total_ns: int = 0

    def count(self, took_ns: int, error: str) -> None:
        """One more; ``error`` is empty if all went well."""
        self.requests += 1
        self.total_ns += took_ns
        if error:
            self.errors += 1
            self.last_error = error[:LONGEST_ERROR]

    def to_plain(self) -> dict[str, Any]:
        """The fields of the protocol."""
        return {
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": self.total_ns,
            "average_processing_time": self.total_ns // self.requests if self.requests else 0,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One subject that an actor listens on."""

    name: str
    subject: str
    queue_group: str
    tally: Tally = field(default_factory=Tally)

    def to_plain(self) -> dict[str, Any]:
        """The fields that INFO and STATS share; no queue group is an empty one."""
        return {"name": self.name, "subject": self.subject, "queue_group": self.queue_group}


class Service:
    """One incarnation of one actor, as a service."""

    __slots__ = ("_identity", "by_component", "by_instance", "endpoint", "id", "name", "started")

    def __init__(self, endpoint: Endpoint, identity: Identity, subjects: Subjects, service_id: str) -> None:
        self.endpoint = endpoint
        self._identity = identity
        self.id = service_id
        """One token; nobody else ever has it."""
        self.name = service_name(endpoint.component)
        self.started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # nats-py needs the fraction
        instance = subjects.instance(endpoint.component, endpoint.index)
        self.by_instance = Place(name="instance", subject=instance, queue_group="")
        component, group = subjects.component(endpoint.component), token(endpoint.component)
        self.by_component = Place(name="component", subject=component, queue_group=group)

    def __repr__(self) -> str:
        return f"<Service {self.name} {self.id}: {self.endpoint.name}>"

    @property
    def control_subjects(self) -> tuple[str, str, str]:
        """Where the requests of the protocol come: for all services, for all of this name, for this one."""
        everybody = f"{PREFIX}.*"
        return everybody, f"{everybody}.{self.name}", f"{everybody}.{self.name}.{self.id}"

    def reply(self, subject: str) -> bytes | None:
        """Return what is answered to a request of the protocol; None for a verb that there is not."""
        match subject.split(".")[1:2]:
            case ["PING"]:
                return self.ping()
            case ["INFO"]:
                return self.info()
            case ["STATS"]:
                return self.stats()
        return None

    def ping(self) -> bytes:
        """That it is there."""
        return _json(self._head("ping"))

    def info(self) -> bytes:
        """What it is: subjects, and the methods of the actor with their signatures."""
        methods = {text(name): text(signature) for name, signature in self.endpoint.methods.items()}
        places = [place.to_plain() | {"metadata": methods} for place in (self.by_instance, self.by_component)]
        facts = {"description": text(self.endpoint.summary), "endpoints": places}
        return _json(self._head("info") | facts)

    def stats(self) -> bytes:
        """What it has done: requests of strangers by subject; all messages and the mailbox as data."""
        data = {name: text(value) for name, value in self.endpoint.statistics().items()}
        places = [
            place.to_plain() | place.tally.to_plain() | {"data": data}
            for place in (self.by_instance, self.by_component)
        ]
        for place in places:
            place["last_error"] = text(place["last_error"])
        return _json(self._head("stats") | {"started": self.started, "endpoints": places})

    def _head(self, verb: str) -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{verb}_response",
            "name": self.name,
            "id": self.id,
            "version": our_version(),
            "metadata": self._metadata(),
        }

    def _metadata(self) -> Mapping[str, str]:
        endpoint, identity = self.endpoint, self._identity
        facts = {
            "namespace": identity.namespace,
            "component": endpoint.component,
            "actor": endpoint.name,
            "incarnation": str(endpoint.incarnation),
            "class": endpoint.actor_class,
            "process": identity.name,
            "node": identity.node,
            "pid": str(identity.pid),
        }
        return {name: text(value) for name, value in facts.items()}


def text(value: Any) -> Any:
    """Return a text that is valid Unicode: a lone surrogate is spelt out. Anything else comes back as it is."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _json(facts: Mapping[str, Any]) -> bytes:
    return orjson.dumps(facts)
