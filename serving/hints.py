"""What a client's HTTP headers say about a request: where it shall go, how urgent it is, and whose trace it belongs to.

``x-dynamo-*`` names are taken as well, for clients that were made for Dynamo.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from .http_errors import HttpError
from .protocol import GenerateRequest, Routed

EXPLAIN = b"x-callboard-explain"
SESSION = (b"x-callboard-session-id", b"x-dynamo-session-id")
WORKER = (b"x-callboard-worker-id", b"x-dynamo-worker-instance-id", b"x-worker-instance-id")
DP_RANK = (b"x-callboard-dp-rank", b"x-dynamo-dp-rank", b"x-dp-rank", b"x-data-parallel-rank")
PRIORITY = (b"x-callboard-priority", b"x-dynamo-request-priority")
TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
KNOWN = frozenset({EXPLAIN, *SESSION, *WORKER, *DP_RANK, *PRIORITY, TRACEPARENT})

SESSION_BYTES = 256
STATE_BYTES = 512
"""Longer ones are dropped, as W3C allows."""

_TRACE = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def with_hints(request: GenerateRequest, headers: Mapping[bytes, bytes]) -> GenerateRequest:
    """Return the request with what the headers say. Raises `HttpError` (400) for a header that makes no sense."""
    if KNOWN.isdisjoint(headers):
        return request
    changes: dict[str, Any] = {}
    if headers.get(EXPLAIN, b"0") not in (b"0", b"", b"false"):
        changes["explain"] = True
    if session := _first(headers, SESSION):
        if len(session) > SESSION_BYTES:
            raise _wrong(SESSION[0], session, f"it may have {SESSION_BYTES} bytes")
        changes["session"] = session.decode("latin-1")
    for name, field, low in (
        (WORKER, "worker", 0),
        (DP_RANK, "dp_rank", 0),
        (PRIORITY, "priority", -(2**31)),
    ):
        value = _first(headers, name)
        if value:
            # `x-callboard-worker` of an answer names an instance: what it says may come back as it is.
            number = value.rpartition(b".")[2] if name is WORKER else value
            changes[field] = _whole(name[0], number, low)
    if _TRACE.fullmatch(headers.get(TRACEPARENT, b"")):
        version_and_id, flags = headers[TRACEPARENT][:35].decode(), headers[TRACEPARENT][53:55].decode()
        changes["traceparent"] = f"{version_and_id}-{random.getrandbits(64) or 1:016x}-{flags}"
        state = headers.get(TRACESTATE, b"")
        if state and len(state) <= STATE_BYTES:
            changes["tracestate"] = state.decode("latin-1")
    return replace(request, **changes) if changes else request


def answer_headers(routed: Routed) -> list[tuple[bytes, bytes]]:
    """Return the headers that say where a request went and why."""
    why = (
        f"mode={routed.mode}; dp_rank={routed.dp_rank}; overlap={routed.overlap_blocks}/{routed.prompt_blocks}; "
        f"cost={routed.cost:.3f}; attempt={routed.attempt}; queued_ms={routed.queued_s * 1000:.1f}"
    )
    if routed.prefill_worker:
        why += f"; prefill={routed.prefill_worker}"
    return [(b"x-callboard-worker", routed.worker.encode()), (b"x-callboard-route", why.encode())]


def _first(headers: Mapping[bytes, bytes], names: tuple[bytes, ...]) -> bytes:
    return next((headers[name] for name in names if headers.get(name)), b"")


def _whole(name: bytes, value: bytes, low: int) -> int:
    text = value.decode("latin-1")
    if not re.fullmatch(r"-?\d{1,10}", text) or not low <= int(text) < 2**31:
        raise _wrong(name, value, f"it must be a whole number from {low} to {2**31 - 1}")
    return int(text)


def _wrong(name: bytes, value: bytes, why: str) -> HttpError:
    shown = value[:60].decode("latin-1")
    return HttpError(400, f"the header {name.decode()} is {shown!r}; {why}", code="invalid_header")
