"""How a worker's config names the source of its engine's KV events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from callboard.transports.errors import ConfigError, did_you_mean

from ..options import settings_of, table
from .changes import EngineChange
from .trtllm_source import TensorRtSource, TensorRtSourceSettings
from .zmq_source import ZmqSource, ZmqSourceSettings

Listener = Callable[[Sequence[EngineChange]], None]


class KvSource(Protocol):
    """Where KV events come from, if not from the engine's adapter."""

    async def start(self) -> None:
        """Begin to tell."""

    async def close(self) -> None:
        """Stop; idempotent."""

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""


KINDS: dict[str, tuple[Any, Any]] = {
    "zmq": (ZmqSourceSettings, ZmqSource),
    "trtllm": (TensorRtSourceSettings, TensorRtSource),
}


def make_source(options: Mapping[str, Any], listener: Listener) -> KvSource:
    """Build the source that ``{"source": "zmq", ...}`` describes. Raises `ConfigError` with every problem."""
    made, settings = source_settings(options)
    source: KvSource = made(settings, listener)
    return source


def source_settings(options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the class that ``make_source`` would build, and its settings. Raises `ConfigError` like it."""
    values = table(options, "kv_events", '{ source = "zmq", endpoint = "tcp://127.0.0.1:5557" }')
    kind = values.pop("source", None)
    if not isinstance(kind, str) or kind not in KINDS:
        known = ", ".join(KINDS)
        raise ConfigError(
            f"kv_events.source is {kind!r}; it must be one of {known}{did_you_mean(str(kind), KINDS)}"
        )
    settings, made = KINDS[kind]
    return made, settings_of(settings, values, "kv_events")
