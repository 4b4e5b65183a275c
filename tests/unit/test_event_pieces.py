"""Frames in pieces, and what is kept of a source: never over a gap."""

from hypothesis import given
from hypothesis import strategies as st

from callboard.transports.events.frames import Kind, decode, encode, split
from callboard.transports.events.kept import Reading, pack, unpack
from callboard.transports.events.outflow import NOTHING
from callboard.transports.events.pieces import HEADER_BYTES, MOST_BYTES, PIECE, Pieces, cut

SOURCE = 7


def travel(frames, most_bytes, lost=frozenset()):
    pieces, number, got = Pieces(), 0, []
    for frame in frames:
        for data, mark in cut(frame, most_bytes):
            assert len(data) + HEADER_BYTES <= max(most_bytes, HEADER_BYTES + 1)
            if number not in lost:
                whole = pieces.add(data, {PIECE: mark} if mark else None)
                got += [] if whole is None else [whole]
            number += 1
    return got, number, pieces


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.integers(1, 20))
def test_frames_come_whole(frames, room):
    got, _, pieces = travel(frames, HEADER_BYTES + room)
    assert got == frames
    assert not pieces.waits


@given(
    st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=5, unique=True),
    st.integers(1, 20),
    st.data(),
)
def test_a_frame_of_which_a_piece_is_lost_is_left_out_and_no_other(frames, room, data):
    _, count, _ = travel(frames, HEADER_BYTES + room)
    lost = data.draw(st.sets(st.integers(0, count - 1)))
    first, whole = 0, []
    for frame in frames:
        pieces = range(first, first + len(list(cut(frame, HEADER_BYTES + room))))
        first = pieces.stop
        whole += [] if lost & set(pieces) else [frame]
    got, _, _ = travel(frames, HEADER_BYTES + room, lost)
    assert got == whole


def test_halves_of_two_frames_are_no_frame():
    (one, first), _ = cut(b"abcd", HEADER_BYTES + 2)
    _, (other, second) = cut(b"efgh", HEADER_BYTES + 2)
    pieces = Pieces()
    assert pieces.add(one, {PIECE: first}) is None
    assert pieces.add(other, {PIECE: second}) is None
    assert not pieces.waits
    assert pieces.incomplete == 1


def test_marks_that_make_no_sense_and_frames_without_end_cost_nothing():
    pieces = Pieces()
    name = "00000000"
    marks = ["x", "1", "/", "1/2", f"0/0 {name}", f"2/2 {name}", f"3/2 {name}", f"-1/4 {name}"]
    for mark in [*marks, f"1/2 {name}x", f"{'1' * 5000}/2 {name}", f"1/1 {name}"]:
        assert pieces.add(b"x", {PIECE: mark}) is None
    assert not pieces.waits
    for number in range(1, 100):
        assert pieces.add(bytes(MOST_BYTES // 20), {PIECE: f"{number}/1000 {name}"}) is None
    assert not pieces.waits
    assert pieces.add(b"whole", None) == b"whole"


def events(first, last):
    return encode(Kind.EVENTS, SOURCE, first, [b"%d" % number for number in range(first, last + 1)])


def walk(reading, frames):
    """What a subscriber is given of these frames, until there is a gap."""
    given_ = []
    for data in frames:
        frame = reading.look(data)
        if frame is None:
            continue
        if reading.lacks(frame):
            return given_, True
        given_ += [data] if reading.take(frame) else []
    return given_, False


def test_what_is_known_is_left_out_and_what_follows_is_taken():
    reading = Reading(SOURCE, 4)
    assert walk(reading, [events(1, 3), events(4, 6), events(7, 7)]) == ([events(4, 6), events(7, 7)], False)
    assert reading.has == 7


def test_a_gap_is_never_stepped_over():
    assert walk(Reading(SOURCE, 3), [events(1, 3), events(5, 6)]) == ([], True)
    assert walk(Reading(SOURCE, NOTHING), [events(5, 6)]) == ([], True)
    assert walk(Reading(SOURCE, 3), [events(1, 3), encode(Kind.EVENTS, SOURCE, 9, [])]) == ([], True)


def test_what_is_of_another_source_or_no_frame_is_left_out():
    strange = [b"", b"\xc1", encode(Kind.EVENTS, 8, 1, [b"x"]), encode(Kind.STATE_END, SOURCE, 9, [b"x"])]
    assert walk(Reading(SOURCE, 0), [*strange, events(1, 1)]) == ([events(1, 1)], False)


def test_a_snapshot_leads_on_or_is_left_out():
    snapshot = split(Kind.STATE_END, SOURCE, 6, [bytes(200_000)] * 3)
    assert len(snapshot) > 1
    reading = Reading(SOURCE, NOTHING)
    assert reading.state(snapshot) == snapshot
    assert walk(reading, [events(3, 6), events(7, 8)]) == ([events(7, 8)], False)
    assert Reading(SOURCE, 6).state(snapshot) == []
    assert Reading(8, NOTHING).state(snapshot) == []
    assert Reading(SOURCE, NOTHING).state(None) == []


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_a_snapshot_is_packed_and_unpacked(values):
    frames = split(Kind.STATE_END, SOURCE, 3, values)
    assert unpack(pack(frames)) == frames


@given(st.binary(max_size=40), st.integers(0, 60))
def test_what_is_no_whole_snapshot_is_none(junk, cut_at):
    assert unpack(junk) is None or decode(unpack(junk)[-1]).kind is Kind.STATE_END
    whole = pack(split(Kind.STATE_END, SOURCE, 3, [b"a" * 20, b"b" * 20]))
    assert unpack(whole[: min(cut_at, len(whole) - 1)]) is None
    assert unpack(pack([events(1, 2)])) is None
    assert unpack(whole + whole) is None
