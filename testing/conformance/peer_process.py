"""A node in a process of its own, for tests of death and back-pressure: commands by standard input, one a line.

Echoes every message that begins with ``echo``, keeps those that begin with ``hold``; counts the others by their number,
to see that none is missing.
"""

import asyncio
import hashlib
import json
import os
import sys
import time

import uvloop

from callboard.transports import base, handshake
from callboard.transports.base import Identity
from callboard.transports.manager import NetworkManager
from callboard.transports.settings import NetworkSettings


class Peer:
    def __init__(self, settings):
        self.identity = Identity(
            node=f"peer-{os.getpid()}",
            name="peer",
            namespace="contract",
            pid=os.getpid(),
            max_message_bytes=settings.max_message_bytes,
        )
        self.network = NetworkManager(settings, self.identity, self)
        self.links = []
        self.count = 0
        self.digest = hashlib.sha256()
        self.downs = []
        self.held = []

    def link_up(self, link):
        self.links.append(link)

    def link_received(self, link, frames):
        if frames[0].startswith(b"echo"):
            link.send([bytes(frame) for frame in frames])
            return
        if frames[0].startswith(b"hold"):
            self.held.append(frames)
        self.count += 1
        for frame in frames:
            self.digest.update(frame)

    def link_writable(self, link):
        pass

    def link_down(self, link, error):
        self.downs.append(f"{type(error).__name__}: {error}")

    def link_idle(self, link):
        return True

    async def do(self, command, arguments):
        if command == "connect":
            self.links.append(await self.network.connect(arguments["address"]))
        elif command == "try":
            try:
                await self.network.connect(arguments["address"])
            except Exception as error:
                return {"error": f"{type(error).__name__}: {error}"}
            return {"error": ""}
        elif command == "send":
            for number in range(arguments["count"]):
                self.links[-1].send([b"%06d" % number + bytes(arguments["size"])])
        elif command == "block":
            time.sleep(arguments["seconds"])  # noqa: ASYNC251
        elif command == "close":
            self.links[-1].close()
        elif command == "exit":
            await self.network.close()
            os._exit(0)
        return {"count": self.count, "digest": self.digest.hexdigest(), "downs": self.downs}


async def main():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    _, arguments = json.loads(await reader.readline())
    if arguments["protocol"]:
        for module in (base, handshake):
            module.PROTOCOL_VERSION = tuple(arguments["protocol"])
        handshake.Hello.__init__.__defaults__ = (base.PROTOCOL_VERSION, "")
    peer = Peer(NetworkSettings(**arguments["settings"]))
    await peer.network.start()
    say({"address": peer.network.address, "node": peer.identity.node})
    while line := await reader.readline():
        command, arguments = json.loads(line)
        say(await peer.do(command, arguments))
    await peer.network.close()


def say(answer):
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
