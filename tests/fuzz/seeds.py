"""Where a fuzzer begins: the golden bytes, what this codec writes of real values, and handshakes."""

import re
from pathlib import Path

from callboard.actors.codec import Codec
from callboard.testing.conformance.actors import values
from callboard.transports import nats_frames as wire
from callboard.transports.base import Identity
from callboard.transports.handshake import (
    ACCEPTED,
    HELLO,
    Hello,
    encode_goodbye,
    encode_hello,
    encode_refusal,
)

GOLDEN = Path(__file__).parents[1] / "unit" / "test_golden_bytes.py"
_HEX = re.compile(r'"([0-9a-f ]{6,})"')
AS_IT_IS = b"\x00"
"""The first byte of an input whose rest is no decisions."""


def golden():
    """The frames that a peer says in the tests of the golden bytes."""
    texts = [text.replace(" ", "") for text in _HEX.findall(GOLDEN.read_text())]
    return [bytes.fromhex(text) for text in texts if len(text) % 2 == 0]


def bodies():
    """Values as this codec writes them: one of each kind."""
    import datetime
    import decimal
    import uuid

    import numpy

    zone = datetime.timezone(datetime.timedelta(hours=1), "x")
    samples = [
        (1, "a"), {1, 2}, frozenset({b"x"}), 2**100, {(1, 2): 3}, bytearray(b"ab"), numpy.arange(6).reshape(2, 3),
        numpy.float32(1.5), datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=zone), datetime.timedelta(1, 2, 3),
        decimal.Decimal("1.50"), uuid.UUID(int=7), 1 + 2j, values.Colour.RED, values.Rights(1), values.Point(1, 2),
        values.Box([1, (2,)]), values.Model(name="x"), b"abc", [1, 2.5, None, True, "text"], {"a": {"b": []}},
    ]  # fmt: skip
    return [Codec().encode(sample, "a sample")[0] for sample in samples]


def handshakes():
    identity = Identity(node="n-1", name="n", namespace="default", pid=3, features=("x",))
    return [
        encode_hello(HELLO, Hello(identity, expects="m")),
        encode_hello(ACCEPTED, Hello(identity)),
        encode_refusal("no"),
        encode_goodbye("bye"),
    ]


def seeds(target):
    """Return inputs for one target."""
    if target == "codec":
        return [AS_IT_IS * 2 + body for body in bodies()]
    if target in ("origin", "peer"):
        return [AS_IT_IS + frame for frame in golden()]
    if target == "handshake":
        return [AS_IT_IS + frame for frame in handshakes()]
    if target == "outside":
        return [AS_IT_IS + b'{"method": "add", "args": [1], "kwargs": {"b": 2}, "deadline_s": 0.5}']
    if target == "nats_frames":
        return [bytes([0, 3, 1, 1, 0, 1, body[0], *body]) for _, body in wire.pieces([b"ab", b"c"], 30)]
    return [b"PING"]
