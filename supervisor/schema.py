"""The JSON Schema of config files, from the same table of keys that the loader reads by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from callboard.transports.schemes import known_schemes

from . import config_keys as keys


def config_schema() -> dict[str, Any]:
    """Build the schema (draft 2020-12)."""
    actor = _table(keys.ACTOR, ["class"])
    actor["properties"] |= {"mailbox": _table(keys.MAILBOX), "restart": _table(keys.RESTART)}
    durable = "Store tells to it, and deliver each until it was handled; needs the nats plane."
    actor["properties"]["durable"] = {
        "description": durable,
        "anyOf": [{"type": "boolean"}, _table(keys.DURABLE)],
    }
    network = _table(keys.network_keys())
    network["properties"]["nats"] = _table(keys.nats_keys())
    top = _table(keys.TOP, ["actor"])
    top["properties"]["request_plane"]["enum"] = sorted(known_schemes())
    top["properties"] |= {
        "actor": _named(actor),
        "process": _named(_table(keys.PROCESS, ["actors"])),
        "network": network,
        "supervisor": _table(keys.SUPERVISOR),
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "callboard config", **top}


def _table(known: Mapping[str, keys.Key], required: list[str] | None = None) -> dict[str, Any]:
    properties = {name: _property(key) for name, key in known.items()}
    table: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return table | ({"required": required} if required else {})


def _property(key: keys.Key) -> dict[str, Any]:
    return {"description": key.doc or f"Takes {key.takes}.", **key.schema}


def _named(table: dict[str, Any]) -> dict[str, Any]:
    pattern = f"^{keys.NAME.pattern}$"
    return {"type": "object", "patternProperties": {pattern: table}, "additionalProperties": False}
