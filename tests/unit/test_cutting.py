"""Large messages in pieces: whole or refused, and never more memory than a message may take."""

import random

import pytest

from callboard.transports import cutting
from callboard.transports.cutting import (
    PIECE,
    PIECE_BYTES,
    Assembly,
    Nonsense,
    TooMuch,
    pieces,
    whole_messages,
)
from callboard.transports.fresh import HUGE_BYTES, bytes_of, new_bytes

MIB = 1024 * 1024
LIMIT = 32 * MIB


def word(first, last, lengths=()):
    return PIECE + cutting._encode((first, last, lengths))


def put_together(messages, limit_bytes=LIMIT):
    assembly = Assembly(limit_bytes)
    results = [assembly.add(frames) for frames in messages]
    assert results[:-1] == [None] * (len(results) - 1)
    assert not assembly.is_open
    return results[-1]


@pytest.mark.parametrize(
    "sizes",
    [
        (1,),
        (10, 3 * MIB),
        (10, 0, PIECE_BYTES, 0, PIECE_BYTES + 1, 0),
        (10, 0, 0),
        (PIECE_BYTES, PIECE_BYTES),
        (2 * MIB + 5, 1, 2, 3),
    ],
)
def test_what_was_cut_is_put_together_again(sizes):
    choose = random.Random(len(sizes))
    frames = tuple(choose.randbytes(size) for size in sizes)
    cut = [tuple(map(bytes, piece)) for piece in pieces(frames)]
    assert all(len(piece) == 2 and 0 < len(piece[1]) <= PIECE_BYTES for piece in cut)
    assert put_together(cut) == list(frames)
    assert all(type(frame) is bytes for frame in put_together(cut))


def test_a_message_of_exactly_the_limit_fits_with_a_word_of_the_plane_in_front():
    frames = (b"\xc1S and more", b"head", bytes(4 * MIB - 4))
    assert put_together(pieces(frames), 4 * MIB) == list(frames)


@pytest.mark.parametrize(
    "messages",
    [
        [(PIECE, b"x")],
        [(PIECE + b"\xff" * 9, b"x")],
        [(word(True, True, [1]),)],
        [(word(True, True, [1]), b"")],
        [(word(True, True, [1]), b"x", b"y")],
        [(word(False, True), b"x")],
        [(word(True, False, [2]), b"x"), (word(True, False, [2]), b"x")],
        [(word(True, True, [2]), b"x")],
        [(word(True, False, [1]), b"x")],
        [(word(True, True, [1]), b"xy")],
        [(word(True, False, [1, 1]), b"x"), (word(False, True), b"xy")],
        [(word(True, False, [2, 1]), b"x"), (word(False, True), b"xy")],
        [(word(True, True, [-1]), b"x")],
        [(word(True, True, [2, -1]), b"x")],
        [(word(True, True, []), b"x")],
        [(word(True, False, [1] * 70_000), b"x")],
    ],
)
def test_pieces_that_do_not_fit_are_refused(messages):
    assembly = Assembly(LIMIT)
    for frames in messages[:-1]:
        assert assembly.add(frames) is None
    with pytest.raises(Nonsense):
        assembly.add(messages[-1])


def test_more_than_a_message_may_hold_is_refused_before_memory_is_taken():
    for lengths in ([10, LIMIT], [10, 1 << 60], [1 << 62] * 100):
        with pytest.raises(TooMuch, match="the limit here is"):
            Assembly(LIMIT).add((word(True, False, lengths), b"x"))


def test_messages_that_were_not_sent_are_given_back_if_no_piece_is_missing():
    first, second = (b"one", bytes(3 * MIB)), (b"two", b"x" * 3 * MIB)
    waiting = [*list(pieces(first))[1:], (b"small",), *pieces(second)]
    assert list(whole_messages(waiting)) == [(b"small",), list(second)]


@pytest.mark.parametrize("size", [1, 1000, HUGE_BYTES - 1, HUGE_BYTES, HUGE_BYTES + 12_345, 3 * HUGE_BYTES])
def test_new_bytes_are_bytes_like_any_other(size):
    data = random.Random(size).randbytes(min(size, 1000)) * (size // min(size, 1000) + 1)
    data = data[:size]
    made, filling = new_bytes(size)
    filling[:] = data
    del filling
    copy = bytes_of(memoryview(bytearray(data)))
    assert made == data == copy
    assert hash(made) == hash(data) == hash(copy)
    assert type(copy) is bytes


def test_bytes_of_a_view_of_any_shape_are_those_in_it():
    view = memoryview(bytes(range(256)) * (2 * HUGE_BYTES // 256)).cast("d", (2, HUGE_BYTES // 8))
    assert bytes_of(view) == bytes(view)
