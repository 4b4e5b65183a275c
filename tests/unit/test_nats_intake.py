"""What a link takes in: pieces of many lanes, each in its order, and what is missing."""

import random

import pytest

from callboard.transports import nats_frames as wire
from callboard.transports.nats_intake import Intake, TooMuch

LIMIT = 1000
WINDOW = 5000


def piece(lane, number, body, flags=wire.WHOLE):
    data = wire.pack(wire.DATA, flags, lane, 7, 8, number) + body
    return wire.unpack(data), data


def take(intake, *arguments):
    return intake.take(*piece(*arguments), 1)


def test_pieces_in_order_are_messages_at_once():
    intake = Intake(LIMIT, WINDOW)
    assert [take(intake, 0, number, b"%d" % number) for number in range(3)] == [[[b"0"]], [[b"1"]], [[b"2"]]]
    assert intake.settle() == {0: 3}
    assert (intake.settle(), intake.owed_bytes) == ({}, 0)


def test_a_piece_that_comes_again_is_left_out():
    intake = Intake(LIMIT, WINDOW)
    take(intake, 0, 0, b"a")
    assert take(intake, 0, 0, b"a") == []
    assert intake.settle() == {0: 1}


def test_a_gap_on_the_lane_of_the_node_is_a_loss():
    intake = Intake(LIMIT, WINDOW)
    with pytest.raises(wire.Nonsense, match="lost messages"):
        take(intake, 0, 1, b"b")


def test_a_gap_on_the_lane_of_an_actor_may_close_and_keeps_the_order():
    intake = Intake(LIMIT, WINDOW)
    assert take(intake, 3, 2, b"c") == take(intake, 3, 1, b"b") == take(intake, 3, 1, b"b") == []
    assert not intake.has_gap_of(1.0, 100.0)
    assert take(intake, 3, 0, b"a") == [[b"a"], [b"b"], [b"c"]]
    assert not intake.has_gap_of(1.0, 200.0)
    assert intake.settle() == {3: 3}


def test_a_gap_that_stays_is_told_from_one_that_has_closed_and_from_another():
    intake = Intake(LIMIT, WINDOW)
    take(intake, 3, 1, b"b")
    assert not intake.has_gap_of(1.0, 100.0)
    take(intake, 3, 0, b"a")
    take(intake, 3, 3, b"d")
    assert not intake.has_gap_of(1.0, 102.0)
    assert intake.has_gap_of(1.0, 103.1)


def test_a_gap_is_forgiven_if_nobody_could_read_meanwhile():
    intake = Intake(LIMIT, WINDOW)
    take(intake, 3, 1, b"b")
    assert not intake.has_gap_of(1.0, 100.0)
    intake.forgive()
    assert not intake.has_gap_of(1.0, 105.0)


def test_what_comes_early_is_bounded():
    intake = Intake(LIMIT, WINDOW)
    for number in range(1, 12):
        take(intake, 3, number, bytes(900))
    with pytest.raises(wire.Nonsense, match="lost messages"):
        take(intake, 3, 12, bytes(900))
    assert intake._early_bytes <= 2 * WINDOW + 901


def test_a_message_over_the_limit_is_refused_whole_or_in_pieces():
    intake = Intake(LIMIT, WINDOW)
    with pytest.raises(TooMuch, match=r"sent 1,001 bytes; the limit here is 1,000"):
        take(intake, 0, 0, bytes(1001))
    intake = Intake(LIMIT, WINDOW)
    *parts, last = wire.pieces([bytes(500), bytes(501)], 100)
    for number, (flags, body) in enumerate(parts):
        take(intake, 0, number, body, flags)
    with pytest.raises(wire.Nonsense, match=r"1,001 bytes; the limit here is 1,000"):
        take(intake, 0, len(parts), last[1], last[0])


@pytest.mark.parametrize("seed", range(20))
def test_any_message_cut_anywhere_and_mixed_with_other_lanes_comes_out_whole(seed):
    choose = random.Random(seed)
    lanes = {
        lane: [
            [choose.randbytes(choose.choice((0, 1, 50, 200))) for _ in range(choose.randint(1, 4))]
            for _ in range(20)
        ]
        for lane in range(4)
    }
    queues = {
        lane: [part for message in messages for part in wire.pieces(message, choose.choice((1, 7, 64, 500)))]
        for lane, messages in lanes.items()
    }
    intake, out = Intake(LIMIT, WINDOW), {lane: [] for lane in lanes}
    numbers = dict.fromkeys(lanes, 0)
    while any(queues.values()):
        lane = choose.choice([lane for lane, queue in queues.items() if queue])
        flags, body = queues[lane].pop(0)
        for message in take(intake, lane, numbers[lane], body, flags):
            assert type(message[0]) is bytes
            out[lane].append([bytes(frame) for frame in message])
        numbers[lane] += 1
    assert out == lanes
    assert intake.settle() == numbers


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0\0\0", b"\0\0\0\1", b"\xff" * 12, b"\0\0\0\2" + bytes(8), b"\0\0\0\1" + b"\xff" * 8],
    ids=str,
)
def test_a_message_whose_lengths_are_wrong_is_nonsense(body):
    with pytest.raises(wire.Nonsense):
        take(Intake(LIMIT, WINDOW), 0, 0, body, wire.FIRST | wire.LAST)


@pytest.mark.parametrize("flags", [0, wire.LAST, wire.SINGLE])
def test_a_message_that_begins_with_its_middle_is_nonsense(flags):
    with pytest.raises(wire.Nonsense, match="begins in the middle"):
        take(Intake(LIMIT, WINDOW), 0, 0, b"middle", flags)


def test_marks_come_back_and_halves_of_them_are_nonsense():
    (packed,) = wire.pack_marks({0: 5, 7: 2**40})
    assert wire.unpack_marks(memoryview(packed + b"more")) == ({0: 5, 7: 2**40}, b"more")
    for end in range(len(packed)):
        with pytest.raises(wire.Nonsense):
            wire.unpack_marks(memoryview(packed[:end]))


def test_many_marks_are_cut_to_what_a_message_holds():
    marks = {lane: lane + 1 for lane in range(1000)}
    bodies = wire.pack_marks(marks, 512)
    assert max(map(len, bodies)) <= 512
    found = {}
    for body in bodies:
        found |= wire.unpack_marks(memoryview(body))[0]
    assert found == marks
    assert wire.pack_marks({}, 512) == [bytes(4)]
