"""HTTP as bytes on a socket, for what a real client would hide."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from callboard.supervisor.system import System

LIMIT_S = 30.0


@dataclass(frozen=True)
class Response:
    """What came back on a connection until the server closed it."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object that every refusal has."""
        error: dict[str, Any] = self.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error


def url_of(system: System) -> str:
    """The newest address that a frontend announced."""
    (text,) = re.findall(r"^(http://\S+)", system.announcements[-1].text)
    return str(text)


def request(method: str, path: str, body: object = b"", headers: str = "") -> bytes:
    """A request after which the server closes the connection."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
    return f"{head}{headers}\r\n".encode() + data


async def send(url: str, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send something on it."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def http(url: str, method: str, path: str, body: object = b"", headers: str = "") -> Response:
    """Send one request and read the answer to its end."""
    reader, writer = await send(url, request(method, path, body, headers))
    try:
        async with asyncio.timeout(LIMIT_S):
            data = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return parsed(data)


async def is_closed(url: str) -> bool:
    """True if nobody listens there any more; while a listener closes, a connection may also be reset."""
    try:
        _, writer = await send(url, b"")
    except ConnectionRefusedError:
        return True
    except ConnectionError:
        return False
    writer.close()
    return False


def parsed(data: bytes) -> Response:
    """Take an answer apart; chunks are joined, and an answer that breaks off is an error."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(chunks(body))
    return Response(int(status.split(" ")[1]), headers, body)


def chunks(data: bytes) -> list[bytes]:
    """Split a chunked body."""
    found = []
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        assert data[length : length + 2] == b"\r\n"
        if not length:
            assert data == b"\r\n"
            return found
        found.append(data[:length])
        data = data[length + 2 :]
