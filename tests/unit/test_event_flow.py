"""Outflow and inflow against each other: whatever is lost, repeated or restarted, a subscriber knows what was said."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.transports.events.errors import BadFrame, EventTooLarge
from callboard.transports.events.frames import (
    EVENT_BYTES,
    FRAME_BYTES,
    MOST_EVENTS,
    Kind,
    decode,
    encode,
    split,
)
from callboard.transports.events.inflow import WAITING_EVENTS, Events, Inflow, Missing, State, Step
from callboard.transports.events.outflow import NOTHING, Outflow


class Reader:
    """What a subscriber knows of one source: every event, or the snapshot that replaced those before."""

    def __init__(self) -> None:
        self.inflow = Inflow()
        self.seen: list[bytes] = []
        self.number = 0
        self.missing = 0

    def take(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, State):
                self.seen, self.number = list(step.values), step.number
            elif isinstance(step, Missing):
                assert step.first == self.number + 1 or not self.number
                self.missing += step.last - step.first + 1
                self.number = step.last
            else:
                assert isinstance(step, Events)
                if self.number or self.seen or step.first == 1:
                    assert step.first == self.number + 1
                self.seen += step.values
                self.number = step.first + len(step.values) - 1

    def fetch(self, outflow: Outflow) -> None:
        for frame in outflow.answer(self.inflow.has):
            self.take(self.inflow.fetched(decode(frame)))
        self.take(self.inflow.complete())


def event(number: int) -> bytes:
    return b"e%d" % number


@given(st.data(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_subscriber_ends_with_all_that_was_said(data: st.DataObject, has_snapshot: bool) -> None:
    said: list[bytes] = []
    outflow = Outflow(
        "t", 7, (lambda: list(said)) if has_snapshot else None, kept_events=data.draw(st.integers(0, 6))
    )
    reader, flying = Reader(), []
    if data.draw(st.booleans()):
        reader.fetch(outflow)
    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(
            st.sampled_from(["send", "send", "send", "lose", "arrive", "repeat", "fetch", "resync"])
        ):
            case "send":
                said.append(event(len(said) + 1))
                outflow.add(said[-1])
                if data.draw(st.booleans()):
                    flying += outflow.take()
            case "lose" if flying:
                flying.pop(0)
            case "arrive" if flying:
                reader.take(reader.inflow.arrived(decode(flying.pop(0))))
            case "repeat" if flying:
                reader.take(reader.inflow.arrived(decode(flying[0])))
            case "fetch" if reader.inflow.fetching:
                flying += outflow.take()
                reader.fetch(outflow)
            case "resync" if has_snapshot:
                reader.inflow.restart(forget=True)
    flying += outflow.take()
    for frame in flying:
        reader.take(reader.inflow.arrived(decode(frame)))
    reader.inflow.restart(forget=False)
    reader.fetch(outflow)
    assert not reader.inflow.fetching
    assert reader.inflow.has == len(said)
    if has_snapshot:
        assert reader.seen == said
        assert reader.missing == 0
    else:
        assert reader.seen == [entry for entry in said if entry in reader.seen]
        first = int(reader.seen[0][1:]) if reader.seen else len(said) + 1
        assert len(reader.seen) + reader.missing >= len(said) - first + 1


def test_a_new_subscriber_gets_the_state_or_begins_with_what_comes() -> None:
    with_state = Outflow("t", 1, lambda: [b"all"])
    without = Outflow("t", 1)
    for outflow in (with_state, without):
        outflow.add(b"one")
        outflow.take()
    one, other = Reader(), Reader()
    one.fetch(with_state)
    other.fetch(without)
    assert (one.seen, one.number) == ([b"all"], 1)
    assert (other.seen, other.inflow.has, other.missing) == ([], 1, 0)


def test_what_nobody_has_any_more_is_said_to_be_missing() -> None:
    outflow, reader = Outflow("t", 1, kept_events=2), Reader()
    reader.fetch(outflow)
    for number in range(1, 6):
        outflow.add(event(number))
    (frame,) = outflow.take()
    outflow.add(event(6))
    reader.take(reader.inflow.arrived(decode(outflow.take()[0])))
    assert reader.inflow.gaps == 1
    reader.fetch(outflow)
    assert (reader.missing, reader.seen) == (4, [event(5), event(6)])
    reader.take(reader.inflow.arrived(decode(frame)))
    assert reader.seen == [event(5), event(6)]
    assert reader.inflow.duplicates == 5 + 1


def test_what_is_kept_while_something_is_fetched_has_a_bound() -> None:
    inflow = Inflow()
    many = [b""] * MOST_EVENTS
    for number in range(WAITING_EVENTS // MOST_EVENTS + 3):
        inflow.arrived(decode(encode(Kind.EVENTS, 1, 1 + number * MOST_EVENTS, many)))
    assert inflow._waiting_events <= WAITING_EVENTS
    assert inflow.dropped == 3 * MOST_EVENTS


def test_frames_without_events_that_are_kept_have_a_bound_too() -> None:
    inflow = Inflow()
    mark = decode(encode(Kind.EVENTS, 1, 9, []))
    for _ in range(WAITING_EVENTS + 3):
        inflow.arrived(mark)
    assert len(inflow._waiting) <= WAITING_EVENTS


def test_an_answer_that_breaks_off_leaves_nothing_half() -> None:
    inflow = Inflow()
    assert inflow.fetched(decode(encode(Kind.STATE, 1, 9, [b"half"]))) == []
    inflow.failed()
    assert inflow.fetched(decode(encode(Kind.STATE_END, 1, 9, [b"whole"]))) == [State(9, [b"whole"])]


def test_frames_are_split_by_size_and_number() -> None:
    events = [bytes(FRAME_BYTES // 2)] * 5
    frames = [decode(frame) for frame in split(Kind.EVENTS, 3, 10, events)]
    assert [(frame.first, len(frame.events)) for frame in frames] == [(10, 2), (12, 2), (14, 1)]
    kinds = [decode(frame).kind for frame in split(Kind.STATE_END, 3, 10, events)]
    assert kinds == [Kind.STATE, Kind.STATE, Kind.STATE_END]
    assert [decode(frame).kind for frame in split(Kind.STATE_END, 3, 10, [])] == [Kind.STATE_END]
    assert len(split(Kind.EVENTS, 1, 1, [b""] * (MOST_EVENTS + 1))) == 2


def test_an_event_that_is_too_large_is_refused_with_its_size() -> None:
    outflow = Outflow("t", 1)
    with pytest.raises(EventTooLarge, match=f"{EVENT_BYTES + 1:,} bytes"):
        outflow.add(bytes(EVENT_BYTES + 1))
    assert outflow.last == 0


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_what_is_no_frame_is_said_to_be_none(data: bytes) -> None:
    with contextlib.suppress(BadFrame):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        encode(Kind.EVENTS, 1, -5, []),
        b"\x95\x02\x00\x01\x01\x90",
        b"\x95\x01\x09\x01\x01\x90",
        b"\x91" * 5000,
    ],
)
def test_frames_of_another_kind_or_version_are_refused(data: bytes) -> None:
    with pytest.raises(BadFrame):
        decode(data)


def test_a_subscriber_that_has_the_last_event_gets_nothing_more() -> None:
    outflow = Outflow("t", 1, lambda: [b"all"])
    outflow.add(b"one")
    assert [decode(frame).events for frame in outflow.answer(1)] == [[]]
    assert decode(outflow.answer(99)[0]).kind is Kind.STATE_END
    assert decode(outflow.answer(NOTHING)[0]).kind is Kind.STATE_END
