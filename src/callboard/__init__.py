"""callboard: actors in processes, supervised, over an exchangeable request plane.

Every name below is loaded when it is first used, so that ``import callboard`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .actors.actor import Actor, ActorContext, blocking, idempotent, interleave
    from .actors.errors import (
        ActorError,
        ActorNotFound,
        ActorStopped,
        ActorUnavailable,
        BadArguments,
        CallCycle,
        CodecError,
        DeadlineExceeded,
        DecodeError,
        EncodeError,
        MailboxFull,
        Overloaded,
        RemoteError,
        StartFailed,
        StashFull,
        UnknownMethod,
    )
    from .actors.hooks import Metrics, Tracing, install_hooks
    from .actors.inner import Watch
    from .actors.outcome import Outcome, outcome
    from .actors.policy import DownKind, Executed, MailboxPolicy, OnDown, Overflow, StopReason
    from .actors.ref import Down, Ref
    from .actors.watches import AwaitableWatch
    from .supervisor.errors import AlreadyRunning, NotRunning, SupervisionError
    from .supervisor.system import System
    from .transports.durable import DurablePolicy
    from .transports.errors import (
        AddressInUse,
        BadAddress,
        Broken,
        CallboardError,
        Closed,
        ConfigError,
        ConnectTimeout,
        HandshakeRefused,
        LinkFull,
        MissingExtra,
        NoRoute,
        NotStored,
        TooLarge,
        TransportError,
        UnknownScheme,
    )
    from .transports.nats_settings import NatsSettings
    from .transports.settings import NetworkSettings

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "ActorContext",
    "ActorError",
    "ActorNotFound",
    "ActorStopped",
    "ActorUnavailable",
    "AddressInUse",
    "AlreadyRunning",
    "AwaitableWatch",
    "BadAddress",
    "BadArguments",
    "Broken",
    "CallCycle",
    "CallboardError",
    "Closed",
    "CodecError",
    "ConfigError",
    "ConnectTimeout",
    "DeadlineExceeded",
    "DecodeError",
    "Down",
    "DownKind",
    "DurablePolicy",
    "EncodeError",
    "Executed",
    "HandshakeRefused",
    "LinkFull",
    "MailboxFull",
    "MailboxPolicy",
    "Metrics",
    "MissingExtra",
    "NatsSettings",
    "NetworkSettings",
    "NoRoute",
    "NotRunning",
    "NotStored",
    "OnDown",
    "Outcome",
    "Overflow",
    "Overloaded",
    "Ref",
    "RemoteError",
    "StartFailed",
    "StashFull",
    "StopReason",
    "SupervisionError",
    "System",
    "TooLarge",
    "Tracing",
    "TransportError",
    "UnknownMethod",
    "UnknownScheme",
    "Watch",
    "__version__",
    "blocking",
    "idempotent",
    "install_hooks",
    "interleave",
    "outcome",
]

_HOMES = {
    "actors.actor": "Actor ActorContext blocking idempotent interleave",
    "actors.errors": (
        "ActorError ActorNotFound ActorStopped ActorUnavailable BadArguments CallCycle CodecError"
        " DeadlineExceeded DecodeError EncodeError MailboxFull Overloaded RemoteError StartFailed"
        " StashFull UnknownMethod"
    ),
    "actors.hooks": "Metrics Tracing install_hooks",
    "actors.inner": "Watch",
    "actors.outcome": "Outcome outcome",
    "actors.policy": "DownKind Executed MailboxPolicy OnDown Overflow StopReason",
    "actors.ref": "Down Ref",
    "actors.watches": "AwaitableWatch",
    "supervisor.errors": "AlreadyRunning NotRunning SupervisionError",
    "supervisor.system": "System",
    "transports.durable": "DurablePolicy",
    "transports.errors": (
        "AddressInUse BadAddress Broken CallboardError Closed ConfigError ConnectTimeout HandshakeRefused"
        " LinkFull MissingExtra NoRoute NotStored TooLarge TransportError UnknownScheme"
    ),
    "transports.nats_settings": "NatsSettings",
    "transports.settings": "NetworkSettings",
}
_HOME_OF = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
