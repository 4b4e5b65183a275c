"""ZMTP by hand: what a peer can say that does not use libzmq, and sends what no libzmq would send."""

import os
import select
import socket
import struct
import time

from callboard.transports.base import Identity
from callboard.transports.handshake import HELLO, Hello, encode_hello

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""What a ZMTP 3 peer says first."""
MORE, LONG, COMMAND = 1, 2, 4


def command(name, properties):
    body = bytes([len(name)]) + name
    for key, value in properties.items():
        body += bytes([len(key)]) + key + struct.pack(">I", len(value)) + value
    return bytes([COMMAND, len(body)]) + body


READY = command(b"READY", {b"Socket-Type": b"DEALER"})


def frame(body, *, more=False):
    if len(body) < 256:
        return bytes([MORE * more, len(body)]) + body
    return struct.pack(">BQ", LONG | MORE * more, len(body)) + body


def hello_of(name="liar", **identity):
    fields = {"node": f"{name}-{os.urandom(4).hex()}", "name": name, "namespace": "contract"}
    return encode_hello(HELLO, Hello(Identity(**fields | identity)))


def call(address):
    """Return a raw connection to the server at an address."""
    if address.startswith("ipc://"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address.removeprefix("ipc://"))
        return connection
    host, _, port = address.removeprefix("tcp://").partition("?")[0].partition(":")
    return socket.create_connection((host, int(port)))


def greet(connection, ready=READY):
    """Do the handshake of ZMTP; blocks."""
    connection.settimeout(20)
    connection.sendall(GREETING + ready)
    read_until(connection, b"READY")


def introduce(connection, **identity):
    """Do ours as well, so that there is a link; blocks."""
    greet(connection)
    connection.sendall(frame(hello_of(**identity)))
    read_until(connection, b"\xc1A")


def read_until(connection, words):
    heard = b""
    while words not in heard:
        part = connection.recv(4096)
        assert part, f"the connection ended before {words!r}; it said {heard!r}"
        heard += part


def flood(connection, data, most_bytes, pause_s=0.0):
    """Send ``data`` again and again until the other side ends the connection; returns how much was sent. Blocks."""
    connection.settimeout(0.05)
    sent = 0
    try:
        while sent < most_bytes and not is_closed(connection):
            try:
                sent += connection.send(data)
                time.sleep(pause_s)
            except TimeoutError:  # the kernel of the other side takes no more, and may have no reset to send
                continue
    except ConnectionError:
        pass
    return sent


def is_closed(connection):
    """True if the other side has ended a raw connection."""
    try:
        while select.select([connection], [], [], 0)[0]:
            if not connection.recv(4096):
                return True
    except ConnectionError:
        return True
    return False
