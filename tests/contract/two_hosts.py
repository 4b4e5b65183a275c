"""Two machines on one cable, made of two network namespaces; prints as JSON who was told which address, and who talked.

Runs as root of a namespace of its own: ``unshare --net --user --map-root-user python two_hosts.py HOST PREFIX``.
HOST is the setting; the machines are PREFIX1 and PREFIX2. This process is the first; the second is a node in a process
of its own, in a second namespace.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from callboard.testing import conformance
from callboard.testing.conformance.network import PATIENCE_S, Node, until
from callboard.transports.address import Address
from callboard.transports.errors import BadAddress
from callboard.transports.settings import NetworkSettings

PEER = Path(conformance.__file__).with_name("peer_process.py")


def ip(*words, at=None):
    inside = ["nsenter", "-t", str(at), "-n"] if at else []
    done = subprocess.run([*inside, "ip", *words], check=True, timeout=PATIENCE_S, stdout=subprocess.PIPE)
    return done.stdout.decode()


def has_carrier(device, at=None):
    return "LOWER_UP" in (shown := ip("link", "show", device, at=at)) and "state UP" in shown


def plug_in(device, address, at=None):
    more = ["nodad"] if ":" in address else []
    ip("addr", "add", f"{address}/{64 if more else 24}", "dev", device, *more, at=at)
    ip("link", "set", device, "up", at=at)


def node(settings):
    return Node(settings, name="first", namespace="contract", node="first", listen=True)


def refused(host, port):
    try:
        socket.create_connection((host, port), PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    return False


async def start_second():
    """Start the second process in its namespace; it waits for its settings."""
    process = await asyncio.create_subprocess_exec(
        "unshare",
        "--net",
        sys.executable,
        str(PEER),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    here = os.readlink("/proc/self/ns/net")
    await until(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != here)
    return process


async def call(process, command, **arguments):
    process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
    async with asyncio.timeout(PATIENCE_S):
        return json.loads(await process.stdout.readline())


async def main(host, prefix):
    settings = NetworkSettings(host=host, insecure=True, ipc=False)
    ip("link", "set", "lo", "up")
    alone = node(settings)
    try:
        await alone.network.start()
        refusal = ""
    except BadAddress as error:
        refusal = str(error)
    await alone.network.close()

    second = await start_second()
    ip("link", "set", "lo", "up", at=second.pid)
    ip("link", "add", "cable1", "type", "veth", "peer", "name", "cable2", "netns", str(second.pid))
    plug_in("cable1", f"{prefix}1")
    plug_in("cable2", f"{prefix}2", at=second.pid)
    await until(lambda: has_carrier("cable1") and has_carrier("cable2", at=second.pid))
    hello = await call(second, "start", settings=asdict(settings), protocol=None)
    first = node(settings)
    await first.network.start()
    try:
        link = await first.dial(hello["address"])
        link.send([b"echo", b"there and back"])
        await until(lambda: first.received)
        await call(second, "connect", address=first.address)
        await call(second, "send", count=3, size=10)
        await until(lambda: len(first.received) == 4)
    finally:
        only_there = refused(
            "127.0.0.1" if "." in prefix else "::1", Address.parse(first.address).host_port()[1]
        )
        second.stdin.close()
        await second.wait()
        await first.network.close()
    print(
        json.dumps(
            {
                "alone": refusal,
                "first": Address.parse(first.address).host_port()[0],
                "second": Address.parse(hello["address"]).host_port()[0],
                "echo": first.received[0][1].decode(),
                "came": len(first.received) - 1,
                "only_there": only_there,
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
