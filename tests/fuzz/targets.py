"""What a hostile peer can reach, as functions of bytes: they return, or break a promise with an exception.

Each gets the bytes of one input. The first of them says whether the rest is taken as it is or read as decisions (see
shapes.py). Memory is judged by tracemalloc against `PER_BYTE` times the input: an empty map is one byte on the wire and
a dict of 64 bytes in memory, an empty set three bytes and one of 216; with its place in a list and the headers of the
allocator nothing costs more than `PER_BYTE`.
"""

import contextlib
import gc
import logging
import tracemalloc
import zoneinfo

import numpy

from callboard.actors.codec import Codec, decode_plain
from callboard.actors.errors import DecodeError
from callboard.actors.failure import from_facts
from callboard.testing.conformance.actors import values
from callboard.transports import nats_frames as wire
from callboard.transports.base import Answer, Identity
from callboard.transports.handshake import Hello, Nonsense, decode_hello, decode_reason, objection
from callboard.transports.nats_intake import Intake
from callboard.transports.nats_service import LONGEST_ERROR, Service, error_headers
from callboard.transports.nats_subjects import Subjects

from . import shapes
from .source import Source
from .victim import Victim

PER_BYTE, AT_REST_BYTES = 150, 96 * 1024
CODEC, PLAIN = Codec(), Codec(plain_objects=True)
US = Identity(node="n", name="n", namespace="default")


class Bounded:
    """Holds the memory of what happens inside against the size of the input, if tracemalloc runs."""

    def __init__(self, size):
        self._most = PER_BYTE * size + AT_REST_BYTES

    def __enter__(self):
        if tracemalloc.is_tracing():
            tracemalloc.reset_peak()
            self._before = tracemalloc.get_traced_memory()[0]

    def __exit__(self, kind, error, trace):
        if error is None and tracemalloc.is_tracing():
            grown = tracemalloc.get_traced_memory()[1] - self._before
            assert grown <= self._most, f"{grown:,} bytes of memory, {self._most:,} are allowed"


def _decode(codec, body, buffers=()):
    built = values.Hostile.built, values.OwnTuple.built
    with Bounded(len(body) + sum(map(len, buffers))):
        try:
            return codec.decode(body, buffers)
        except DecodeError:
            return None
        finally:
            assert (values.Hostile.built, values.OwnTuple.built) == built, "the code of a class ran"


def codec(data):
    """Values, with all extension types and buffers."""
    source = Source(data)
    if source.below(4) == 0:
        buffers = [source.take(source.below(20)) for _ in range(source.below(3))]
        body = source.rest()
    else:
        buffers = [source.take(source.below(40)) for _ in range(source.pick((0, 0, 0, 1, 2)))]
        body = shapes.damaged(source, shapes.value(source))
    value = _decode(CODEC, body, buffers)
    if source.one_in(4):
        _decode(PLAIN, body, buffers)
    with contextlib.suppress(DecodeError):
        decode_plain(body)
    assert isinstance(from_facts(value), Exception)


def handshake(data):
    """Hello, acceptance, refusal, goodbye, and the fields of an identity."""
    source = Source(data)
    frame = source.rest() if source.below(4) == 0 else shapes.handshake(source)
    with Bounded(len(frame)):
        assert isinstance(decode_reason(frame), str)
        try:
            hello = decode_hello(frame)
        except Nonsense:
            return
    assert isinstance(objection(US, hello), str)
    assert isinstance(hello, Hello)
    peer = hello.identity
    for text in (peer.node, peer.name, peer.namespace, peer.host, peer.address, *peer.features):
        assert type(text) is str
    for number in (peer.incarnation, peer.pid, peer.max_message_bytes):
        assert type(number) is int
    the_victim().visit(peer)


def nats_frames(data):
    """The pieces of messages on NATS, in whatever order, and acknowledgements."""
    source = Source(data)
    intake = Intake(4096, 64 * 1024)
    came = taken = 0
    with Bounded(8 * len(data) + 4096):  # each decision may be a piece of 100 bytes
        try:
            while len(source):
                piece = shapes.piece(source)
                came += len(piece)
                header = wire.unpack(piece)
                if header is None:
                    continue
                for message in intake.take(header, piece, 64):
                    assert type(message[0]) is bytes
                    taken += sum(map(len, message))
                if header.kind != wire.DATA:
                    wire.unpack_marks(memoryview(piece)[wire.HEADER_BYTES :])
                repr(intake)
        except wire.Nonsense:
            pass
        intake.has_all(intake.settle())
    assert taken <= came


def nats_service(data):
    """What a stranger asks the service protocol, and what becomes of errors in headers."""
    source = Source(data)
    wide = source.below(2)
    text = source.take(40).decode("utf-16-le" if wide else "latin-1", "replace")
    headers = error_headers(source.number(2), text)
    for line in headers.values():
        assert line.isascii()
        assert line.isprintable()
        assert len(line) <= LONGEST_ERROR
    victim = the_victim()
    endpoint = victim.endpoint()
    service = Service(endpoint, US, Subjects("callboard", text or "x"), "id")
    for verb in ("PING", "INFO", "STATS", source.text()):
        reply = service.reply(f"$SRV.{verb}.{text}")
        assert reply is None or type(reply) is bytes
    service.reply(text)


def outside(data):
    """Requests in JSON: each has one answer."""
    source = Source(data)
    body = source.rest() if source.below(4) == 0 else shapes.request(source)
    endpoint = the_victim().endpoint()
    assert type(the_victim().told(body)) is Answer
    answer = the_victim().outcome(lambda: endpoint.ask(body))
    assert type(answer) is Answer
    assert 200 <= answer.code < 600
    assert (answer.code == 200) is (answer.error == "")


def origin(data):
    """A peer that dialled us, and sends batches that are not what they should be."""
    messages = _messages(data, (1, 1, 1, 2, 3, 3, 8, 10, 4, 9, 0, 200))
    victim = the_victim()
    size = sum(len(frame) for frames in messages for frame in frames)
    with Bounded(8 * size):  # a call, a task and an answer for each
        victim.attack_as_caller(messages)


def peer(data):
    """A peer that we dialled, and that answers what it should not."""
    messages = _messages(data, (4, 4, 5, 5, 6, 6, 7, 9, 10, 1, 0, 200))
    victim = the_victim()
    size = sum(len(frame) for frames in messages for frame in frames)
    with Bounded(8 * size):
        victim.attack_as_server(messages)


def _messages(data, kinds):
    source = Source(data)
    if source.below(8) == 0:
        return [[source.rest()]]
    return [shapes.message(source, kinds) for _ in range(source.below(3) + 1)]


_victims = []


def the_victim():
    """The node that all inputs of this run attack."""
    if not _victims:
        _victims.append(Victim())
    return _victims[0]


def close():
    """End the node, and show what went wrong in it."""
    while _victims:
        _victims.pop().close()


def read_logs():
    """Format every record that the runtime logs, as a handler of the user would, and show none."""

    class Reader(logging.Handler):
        def emit(self, record):
            self.format(record)

        def handleError(self, record):
            raise AssertionError(f"{record.msg!r} cannot be formatted")

    log = logging.getLogger("callboard")
    log.handlers[:] = [Reader()]
    log.propagate = False
    numpy.zeros(1)
    zoneinfo.ZoneInfo("UTC")  # what these load at first is no input's
    gc.freeze()


TARGETS = {
    target.__name__: target for target in (codec, handshake, origin, peer, nats_frames, nats_service, outside)
}
