"""A client of OpenAI-compatible servers that counts events of streamed answers and parses nothing else.

Standard library only: the driver of Dynamo uses it in its own interpreter, callboard's case in this one.
"""

from __future__ import annotations

import asyncio
import json
from time import perf_counter
from typing import Any

CONNECTIONS = 32
TOKENS = 100
PROMPT = "hello world " * 50


def request_of(model: str, tokens: int = TOKENS, **more: Any) -> bytes:
    """A request for a streamed answer of so many tokens; ``more`` is what only one server knows."""
    message = {"role": "user", "content": PROMPT}
    body = json.dumps(
        {"model": model, "messages": [message], "stream": True, "max_tokens": tokens, **more}
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request and return how many events came, without the closing ``[DONE]``."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0]
    if b" 200 " not in status:
        raise RuntimeError(f"the server answered {status.decode()!r}")
    events = 0
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        chunk = await reader.readexactly(size + 2)
        if not size:
            return events - 1
        events += chunk.count(b"data: ")


async def events_per_second(port: int, request: bytes, seconds: float) -> float:
    """Events of 32 kept connections, each with one request after the other."""

    async def asker(end: float) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        total = 0
        try:
            while perf_counter() < end:
                events = await answer(reader, writer, request)
                if events < TOKENS:
                    raise RuntimeError(f"{TOKENS} tokens were asked for, {events} events came")
                total += events
        finally:
            writer.close()
        return total

    await asyncio.gather(*(asker(perf_counter() + seconds / 5) for _ in range(CONNECTIONS)))
    start = perf_counter()
    totals = await asyncio.gather(*(asker(start + seconds) for _ in range(CONNECTIONS)))
    return sum(totals) / (perf_counter() - start)
