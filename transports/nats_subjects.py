"""The NATS subjects of a namespace. Pure.

=========================================  =================================================================
``{prefix}.{namespace}.{component}``       whoever of a component is free; its instances are a queue group
``{prefix}.{namespace}.{component}.{i}``   one instance of a component
``{prefix}.{namespace}._node.{node}``      one process
``{prefix}.{namespace}._inbox.{node}.>``   what is answered to it
``{prefix}.{namespace}._alive.{node}``     its signs of life
``{prefix}.{namespace}._durable.{c}.{i}``  what is stored for a component or an instance, see nats_durable.py
``{prefix}.{namespace}._stored.{node}.>``  acknowledgements of what it had stored
``{prefix}.{namespace}._pull.{node}.>``    what is delivered to it from there
``{prefix}.{namespace}._events.{t}.{c}.{s}``  events of topic t, component c, source s
``{prefix}.{namespace}._replay.{node}``    where a process is asked for events that were missed
=========================================  =================================================================

A name becomes one token: what is not a letter, a digit, ``-`` or ``_`` is written as ``=`` and two hexadecimal digits
per byte, and so is a ``_`` at the beginning, which marks our own tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FOREIGN = re.compile(rb"^_|[^A-Za-z0-9_-]")


def token(name: str) -> str:
    """Return a name as one token of a subject; different names give different tokens.

    >>> token("worker"), token("a.b"), token("_x"), token("")
    ('worker', 'a=2Eb', '=5Fx', '=')
    """
    if not name:
        return "="
    raw = name.encode("utf-8", "surrogatepass")
    return _FOREIGN.sub(lambda found: b"=%02X" % found.group()[0], raw).decode()


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one namespace."""

    prefix: str
    namespace: str

    @property
    def root(self) -> str:
        """What all of them begin with."""
        return f"{self.prefix}.{token(self.namespace)}"

    def node(self, node: str) -> str:
        """Where a process listens."""
        return f"{self.root}._node.{token(node)}"

    def inbox(self, node: str) -> str:
        """What the subjects for answers to a process begin with."""
        return f"{self.root}._inbox.{token(node)}"

    def own(self, node: str) -> str:
        """What the subjects for what the client library itself asks begin with."""
        return f"{self.root}._own.{token(node)}"

    def alive(self, node: str) -> str:
        """Where a process gives its signs of life."""
        return f"{self.root}._alive.{token(node)}"

    def component(self, component: str) -> str:
        """Where a component listens as a queue group."""
        return f"{self.root}.{token(component)}"

    def instance(self, component: str, index: int | None) -> str:
        """Where one instance listens; ``index`` is None for an actor whose name has no number."""
        return f"{self.root}.{token(component)}.{'_' if index is None else index}"

    def durable(self, component: str, instance: int | str | None) -> str:
        """What is stored for a component: for whichever instance is free (None), for one, or all of it (``>``)."""
        return f"{self.root}._durable.{token(component)}.{'_' if instance is None else instance}"

    def stored(self, node: str) -> str:
        """What the subjects for acknowledgements of stored messages to a process begin with."""
        return f"{self.root}._stored.{token(node)}"

    def pull(self, node: str) -> str:
        """What the subjects for deliveries of stored messages to a process begin with."""
        return f"{self.root}._pull.{token(node)}"

    def events(self, topic: str, component: str, source: int | None) -> str:
        """Where events of a source are published; of all sources of a topic if it is None."""
        rest = ">" if source is None else f"{token(component)}.{source:x}"
        return f"{self.root}._events.{token(topic)}.{rest}"

    def replay(self, node: str) -> str:
        """Where a process is asked for events that were missed."""
        return f"{self.root}._replay.{token(node)}"

    def events_stream(self, topic: str) -> str:
        """Name of the JetStream stream that keeps the events of a topic; it has a part more than those of `stream`.

        >>> Subjects("callboard", "a-b").events_stream("kv")
        'callboard-a=2Db-events-kv'
        """
        return _dashed(self.prefix, self.namespace, "events", topic)

    def snapshots(self) -> str:
        """Name of the bucket that keeps snapshots: it takes no ``=``, so that ``_`` takes its place.

        >>> Subjects("callboard", "demo").snapshots(), Subjects("callboard", "a-b_c").snapshots()
        ('callboard-demo-snapshots', 'callboard-a_2Db_5Fc-snapshots')
        """
        return "-".join(
            re.sub(r"[_-]", lambda found: f"={ord(found.group()):02X}", token(name)).replace("=", "_")
            for name in (self.prefix, self.namespace, "snapshots")
        )

    def stream(self, component: str) -> str:
        """Name of the JetStream stream of a component; different ones never share a name.

        >>> Subjects("callboard", "demo").stream("worker"), Subjects("callboard", "a-b").stream("c.d")
        ('callboard-demo-worker', 'callboard-a=2Db-c=2Ed')
        """
        return _dashed(self.prefix, self.namespace, component)

    def carries_links(self, subject: str) -> bool:
        """True if pieces of links may have come on a subject that we listen on.

        >>> subjects = Subjects("callboard", "demo")
        >>> [subjects.carries_links(s) for s in ("callboard.demo.w.0", "callboard.demo.w", "$SRV.PING")]
        [True, False, False]
        """
        tokens = subject.removeprefix(f"{self.root}.").split(".")
        return subject.startswith(f"{self.root}.") and len(tokens) > 1 and tokens[0] not in ("_alive", "_own")


def _dashed(*names: str) -> str:
    return "-".join(token(name).replace("-", "=2D") for name in names)


def is_inbox(own: Subjects, subject: str) -> bool:
    """True for a place in the inbox of a node, of whatever namespace: nothing else is ever answered.

    >>> is_inbox(Subjects("callboard", "demo"), "callboard.other._inbox.web-0-1.3f")
    True
    """
    tokens = subject.split(".")
    return (
        len(tokens) == 5 and tokens[0] == own.prefix and tokens[2] == "_inbox" and not {"*", ">"} & {*tokens}
    )
