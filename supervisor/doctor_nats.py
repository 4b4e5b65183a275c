"""How `callboard doctor` looks at NATS: as a client that stores nothing and changes nothing."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nats.errors
import orjson

from callboard.transports import nats_client
from callboard.transports.errors import CallboardError
from callboard.transports.nats_settings import without_password
from callboard.transports.nats_subjects import Subjects
from callboard.transports.settings import NetworkSettings

from .doctor_facts import NatsFacts, NatsStage

if TYPE_CHECKING:
    from nats.aio.client import Client

API_S = 2.0
STRANGER = "something listens there that is no NATS server"
INFO, AUDIT = "$JS.API.INFO", "$JS.EVENT.ADVISORY.API"


async def look_at_nats(
    settings: NetworkSettings,
    limit_s: float,
    now: Callable[[], float] = time.time,
    *,
    namespace: str = "default",
) -> NatsFacts:
    """Return what somebody with these settings meets in a namespace; ``now`` is our clock. Raises nothing."""
    where, greeting, errors = nats_client.where(settings.nats), {}, []
    for server in settings.nats.servers:
        try:
            async with asyncio.timeout(limit_s):
                greeting = await _greeting(server)
        except TimeoutError:
            errors.append(f"{without_password(server)} is silent for {limit_s:g} s")
        except (OSError, ValueError) as error:
            errors.append(f"{without_password(server)}: {_reason(error)}")
        else:
            where = without_password(server)
            break
    if not greeting:
        return NatsFacts(where=where, stage=NatsStage.CONNECT, error="; ".join(errors))
    known: dict[str, Any] = {
        "where": where,
        "version": str(greeting.get("version", "?")),
        "max_payload_bytes": limit if isinstance(limit := greeting.get("max_payload"), int) else 0,
    }
    subjects, node = Subjects(settings.nats.prefix, namespace), f"doctor-{secrets.token_hex(6)}"
    said: list[str] = []

    async def failed(error: Exception) -> None:
        said.append(str(error).removeprefix("nats:").strip(" '\""))

    try:
        client = await nats_client.connect(
            settings, "callboard doctor", limit_s=limit_s, inbox=subjects.own(node), failed=failed
        )
    except (CallboardError, OSError, ValueError) as error:
        why = getattr(error, "why", "") or str(error)
        why = why.partition("; check network.nats")[0]  # the check gives the advice
        return NatsFacts(**known, error=why, stage=_stage(why, settings, greeting))
    try:
        denied = await _round_trip(client, subjects.node(node), said)
        found = {} if denied else await _jetstream(client, now, said)
        return NatsFacts(**known, stage=NatsStage.DONE, below=subjects.root, denied=denied, **found)
    finally:
        await nats_client.close(client)


async def _greeting(server: str) -> dict[str, Any]:
    """What a server says before anything else, to everybody."""
    url = urlsplit(server)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        line = await reader.readline()
    finally:
        writer.close()
    word, _, text = line.partition(b" ")
    if word != b"INFO" or not (greeting := _object(text)):
        raise ValueError(STRANGER)
    return greeting


def _object(text: bytes) -> dict[str, Any]:
    """What a server says in JSON; raises ValueError if it is no object."""
    value = orjson.loads(text)
    if not isinstance(value, dict):
        raise ValueError(STRANGER)
    return value


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number and number > 0 else str(error) or type(error).__name__


def _stage(why: str, settings: NetworkSettings, greeting: dict[str, Any]) -> NatsStage:
    """What a server that answers has refused. Pure."""
    if any(word in why.lower() for word in nats_client.REFUSED):
        return NatsStage.CREDENTIALS
    is_encrypted = settings.nats.uses_tls or greeting.get("tls_required")
    return NatsStage.TLS if is_encrypted else NatsStage.CREDENTIALS


async def _round_trip(client: Client, subject: str, said: list[str]) -> str:
    """What keeps a message of ours from coming back to us; empty if nothing does."""
    try:
        subscription = await client.subscribe(subject)
        await client.publish(subject)
        await subscription.next_msg(API_S)
        await nats_client.confirm(client, API_S)
    except (nats.errors.Error, TimeoutError) as error:
        return "; ".join(said) or f"no message came back on {subject}: {str(error) or type(error).__name__}"
    return ""


async def _jetstream(client: Client, now: Callable[[], float], said: list[str]) -> dict[str, Any]:
    """Whether JetStream is on, and the time of the server: that is in the note it publishes of each question."""
    found: dict[str, Any] = {}
    try:
        audit = await client.subscribe(AUDIT)
        await nats_client.confirm(client)
        asked_s = now()
        reply = await client.request(INFO, b"", timeout=API_S)
        answered_s = now()
        found["jetstream"] = "error" not in _object(reply.data)  # the account may have none
        async with asyncio.timeout(API_S):
            while "ahead_s" not in found:
                note = _object((await audit.next_msg(API_S)).data)
                if note.get("subject") == INFO and note["client"].get("id") == client.client_id:
                    theirs_s = datetime.fromisoformat(note["timestamp"]).timestamp()
                    found["ahead_s"] = theirs_s - (asked_s + answered_s) / 2
                    found["within_s"] = abs(answered_s - asked_s) / 2
    except (nats.errors.Error, TimeoutError, ValueError, LookupError, TypeError, AttributeError):
        pass  # no JetStream, or no permission to hear of it: what is known by then is the answer
    if "jetstream" not in found:
        found["jetstream_denied"] = "; ".join(text for text in said if INFO.lower() in text.lower())
    return found
