"""What a link has to send: lanes take turns, a window bounds what is under way, and what was sent is kept."""

import pytest

from callboard.transports import nats_outflow
from callboard.transports.nats_outflow import PIECE_COST_BYTES, Outflow


def sent(out):
    """Everything that may leave now: lane, number and body."""
    found = []
    while (turn := out.next()) is not None:
        lane, piece = turn
        found.append((lane.number, piece.number, piece.body))
    return found


@pytest.fixture
def out():
    return Outflow(None, "node")


def test_messages_of_a_lane_leave_in_order_and_are_kept(out):
    out.add(out.main, [b"a"], 10)
    out.add(out.main, [b"b"], 10)
    assert out.count == 2
    assert sent(out) == [(0, 0, b"a"), (0, 1, b"b")]
    assert out.count == 0
    assert [piece.message for piece in out.main.kept] == [[b"a"], [b"b"]]


def test_a_large_message_holds_up_no_other_lane(out):
    large, small = out.lane("x"), out.lane("y")
    out.add(large, [bytes(25)], 10)
    out.add(small, [b"1"], 10)
    out.add(small, [b"2"], 10)
    assert [lane for lane, _, _ in sent(out)][:4] == [1, 2, 1, 2]
    assert out.count == 0


def test_a_window_bounds_what_is_under_way_and_opens_with_acknowledgements(out, monkeypatch):
    monkeypatch.setattr(nats_outflow, "WINDOW_BYTES", 3 * (10 + PIECE_COST_BYTES))
    for _ in range(5):
        out.add(out.main, [bytes(10)], 10)
    assert len(sent(out)) == 3
    out.acknowledged({0: 2, 77: 5})
    assert len(sent(out)) == 2
    out.acknowledged({0: 5})
    assert (out.in_flight_bytes, list(out.main.kept)) == (0, [])


def test_a_message_whose_last_piece_has_left_waits_no_more(out, monkeypatch):
    """A regression: when the window ended there, it was both handled and counted as undelivered."""
    monkeypatch.setattr(nats_outflow, "WINDOW_BYTES", 10 + PIECE_COST_BYTES)
    out.add(out.main, [bytes(10)], 10)
    out.add(out.main, [b"next"], 10)
    assert len(sent(out)) == 1
    assert out.clear() == [[b"next"]]


def test_a_message_that_has_left_in_part_waits_still(out, monkeypatch):
    monkeypatch.setattr(nats_outflow, "WINDOW_BYTES", 10 + PIECE_COST_BYTES)
    out.add(out.main, [bytes(30)], 10)
    assert len(sent(out)) == 1
    assert out.clear() == [[bytes(30)]]
    assert (out.count, sent(out)) == (0, [])


def test_what_nobody_took_is_sent_again_to_the_node(out):
    lane = out.lane("x")
    for body in (b"a", b"b", b"c"):
        out.add(lane, [body], 10)
    sent(out)
    assert [piece.body for piece in out.to_node(lane, 1, certain=True)] == [b"b", b"c"]
    assert not lane.by_actor
    assert out.lane("x") is lane


def test_a_lane_is_stuck_when_it_keeps_the_same_piece_for_long(out):
    lane = out.lane("x")
    assert not any(lane.is_stuck() for _ in range(10))
    out.add(lane, [b"a"], 10)
    out.add(lane, [b"b"], 10)
    sent(out)
    looks = [lane.is_stuck() for _ in range(nats_outflow.PATIENCE + 1)]
    assert looks == [False] * nats_outflow.PATIENCE + [True]
    out.acknowledged({1: 1})
    assert not lane.is_stuck()
    out.to_node(lane, 0, certain=False)
    assert not any(lane.is_stuck() for _ in range(10))


def test_marks_are_of_lanes_that_are_not_acknowledged(out):
    for name in "xyz":
        out.add(out.lane(name), [b"1"], 10)
    sent(out)
    out.acknowledged({2: 1})
    assert out.open_marks(10) == {1: 1, 3: 1}
    assert out.open_marks(1) == {1: 1}


def test_beyond_the_most_lanes_actors_share_that_of_the_node(out, monkeypatch):
    monkeypatch.setattr(nats_outflow, "MOST_LANES", 3)
    assert [out.lane(name).number for name in "abcd"] == [1, 2, 0, 0]
