"""What every event plane promises; see `docs/events.md`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from random import Random

import pytest

from callboard.transports.errors import Closed
from callboard.transports.events.errors import BadFrame, EventTooLarge, SnapshotFailed
from callboard.transports.events.frames import EVENT_BYTES, Kind, encode
from callboard.transports.events.outflow import KEPT_EVENTS


async def test_events_come_in_order_and_once(stage):
    speaker = await stage.speaker()
    reader = await stage.reader(speaker)
    for count in (1, 2, 500, 1):
        speaker.say(count)
        await asyncio.sleep(0)
    await stage.until(lambda: reader.knows(speaker))
    assert reader.numbers == {speaker.id: 504}


async def test_events_of_one_turn_travel_together(stage):
    speaker = await stage.speaker()
    reader = await stage.reader(speaker)
    speaker.say(1000)
    await stage.until(lambda: reader.knows(speaker))
    assert speaker.publisher.frames == 1


async def test_several_sources_are_kept_apart(stage):
    speakers = [await stage.speaker(f"speaker.{number}") for number in range(3)]
    reader = await stage.reader(*speakers)
    for count in (3, 1, 7):
        for speaker in speakers:
            speaker.say(count + speakers.index(speaker))
        await asyncio.sleep(0)
    await stage.until(lambda: reader.knows(*speakers))


async def test_every_subscriber_gets_everything(stage):
    speaker = await stage.speaker()
    readers = [await stage.reader(speaker) for _ in range(3)]
    speaker.say(100)
    await stage.until(lambda: all(reader.knows(speaker) for reader in readers))


async def test_who_comes_late_gets_the_state_and_then_what_comes(stage):
    speaker = await stage.speaker()
    speaker.say(KEPT_EVENTS + 1000)
    reader = await stage.reader(speaker)
    speaker.say(5)
    await stage.until(lambda: reader.knows(speaker))
    assert speaker.id in reader.states


async def test_a_source_that_said_nothing_has_a_state_of_nothing(stage):
    speaker = await stage.speaker()
    reader = await stage.reader(speaker)
    await stage.until(lambda: reader.view == {speaker.id: []})


async def test_a_snapshot_that_raises_is_told_and_asked_for_again(stage):
    speaker = await stage.speaker()
    speaker.trouble = RuntimeError("no state yet")
    reader = await stage.reader()
    reader.subscription.add(speaker.source)
    with pytest.raises(SnapshotFailed, match="RuntimeError: no state yet"):
        await asyncio.wait_for(reader.subscription.synced(), 30)
    assert speaker.publisher.statistics()["failed_snapshots"] > 0
    assert reader.subscription.statistics()["failed_fetches"] > 0
    speaker.trouble = None
    await stage.until(lambda: reader.view == {speaker.id: []})
    await asyncio.wait_for(reader.subscription.synced(), 30)
    speaker.say(2)
    await stage.until(lambda: reader.knows(speaker))


async def test_a_source_whose_snapshot_raises_does_not_keep_another_from_being_heard(stage):
    bad, good = await stage.speaker("speaker.0"), await stage.speaker("speaker.1")
    bad.trouble = KeyError("worker.3")
    good.say(3)
    reader = await stage.reader(good)
    reader.subscription.add(bad.source)
    good.say(2)
    await stage.until(lambda: reader.knows(good))
    reader.subscription.remove(bad.source, "its process ended")
    await asyncio.wait_for(reader.subscription.synced(), 30)


async def test_a_value_of_a_snapshot_is_bounded_like_an_event(stage):
    speaker = await stage.speaker()
    speaker.said.append(bytes(EVENT_BYTES + 1))
    reader = await stage.reader()
    reader.subscription.add(speaker.source)
    with pytest.raises(SnapshotFailed, match=f"{EVENT_BYTES + 1:,} bytes.*{EVENT_BYTES:,} at most"):
        await asyncio.wait_for(reader.subscription.synced(), 30)
    speaker.said[0] = bytes(EVENT_BYTES)
    await stage.until(lambda: reader.view == {speaker.id: speaker.said})


async def test_without_a_snapshot_one_begins_with_what_comes(stage):
    speaker = await stage.speaker(has_snapshot=False)
    reader = await stage.reader(speaker)
    speaker.say(3)
    await stage.until(lambda: reader.knows(speaker))
    assert (reader.states, reader.lost) == ([], 0)


FRAMES = 100


def _unlucky(loss):
    """Return identifiers of sources that lose their last frame, but not two in a row from then on.

    Who loses one sign of life after the other is healed, too, but by the pauses of `MARKS_S`: in minutes.
    """
    for identifier in itertools.count(1):
        rng = Random(identifier)
        lost = [rng.random() < loss for _ in range(FRAMES + 12)][FRAMES - 1 :]
        if lost[0] and not any(a and b for a, b in itertools.pairwise(lost)):
            yield identifier


@pytest.mark.parametrize("loss", [0.05, 0.5])
async def test_what_is_lost_is_fetched(stage, loss):
    speakers = [
        await stage.speaker(f"speaker.{number}", loss=loss, identifier=identifier)
        for number, identifier in enumerate(itertools.islice(_unlucky(loss), 2))
    ]
    reader = await stage.reader(*speakers)
    for _ in range(FRAMES):
        for speaker in speakers:
            speaker.say(3)
        await asyncio.sleep(0)
    await stage.until(lambda: reader.knows(*speakers))
    assert all(speaker.publisher.statistics()["lost_on_purpose"] > 0 for speaker in speakers)
    assert reader.subscription.statistics()["gaps"] > 0


async def test_a_source_that_closes_ends_and_its_successor_starts_anew(stage):
    first = await stage.speaker()
    reader = await stage.reader(first)
    first.say(3)
    await stage.until(lambda: reader.knows(first))
    await first.publisher.close()
    with pytest.raises(Closed):
        first.publisher.send(b"late")
    reader.subscription.remove(first.source, "it was closed")
    second = await stage.speaker()
    reader.subscription.add(second.source)
    second.say(1)
    await stage.until(lambda: reader.knows(second))
    assert reader.left == {first.id: "it was closed"}


async def test_a_source_that_is_gone_holds_nobody_up(stage):
    gone, here = await stage.speaker("speaker.0"), await stage.speaker("speaker.1")
    source = gone.source
    await gone.publisher.close()
    reader = await stage.reader(here)
    reader.subscription.add(source)
    here.say(2)
    await stage.until(lambda: reader.view.get(here.id) == here.said)
    reader.subscription.remove(source, "its process ended")
    await asyncio.wait_for(reader.subscription.synced(), 30)
    await stage.until(lambda: reader.left == {gone.id: "its process ended"})


async def test_a_slow_reader_costs_a_bounded_queue_and_is_healed(stage):
    loud, calm = await stage.speaker("speaker.0"), await stage.speaker("speaker.1")
    reader = await stage.reader(loud, calm, queued_events=100, reading=False)
    calm.say(3)
    for _ in range(20):
        loud.say(50)
        await asyncio.sleep(0)
    statistics = reader.subscription.statistics
    await stage.until(lambda: statistics()["overflows"] > 0)
    assert statistics()["queued"] <= 100 + 50  # the limit, and one frame
    reader.start()
    await stage.until(lambda: reader.knows(loud, calm))


async def test_a_burst_that_is_larger_than_the_queue_arrives(stage):
    speaker = await stage.speaker()
    reader = await stage.reader(speaker, queued_events=100)
    speaker.say(KEPT_EVENTS + 1000)
    await stage.until(lambda: reader.knows(speaker))
    speaker.say(1)
    await stage.until(lambda: reader.knows(speaker))


async def test_a_snapshot_that_is_larger_than_the_queue_arrives(stage):
    loud, calm = await stage.speaker("speaker.0"), await stage.speaker("speaker.1")
    loud.say(KEPT_EVENTS + 1000)
    calm.say(1)
    reader = await stage.reader(loud, calm, queued_events=100)
    await stage.until(lambda: reader.knows(loud, calm))


async def test_what_nobody_has_any_more_is_said_to_be_lost(stage):
    speaker = await stage.speaker(has_snapshot=False)
    reader = await stage.reader(speaker, queued_events=100)
    speaker.say(5)
    await stage.until(lambda: reader.knows(speaker))
    speaker.say(3 * KEPT_EVENTS)
    await stage.until(lambda: reader.numbers[speaker.id] == len(speaker.said))
    assert reader.lost + len(reader.view[speaker.id]) == len(speaker.said)


async def test_large_events_arrive_and_too_large_ones_are_refused(stage):
    speaker = await stage.speaker()
    reader = await stage.reader(speaker)
    speaker.say(3, size_bytes=EVENT_BYTES - 10)
    with pytest.raises(EventTooLarge, match=f"{EVENT_BYTES + 1:,} bytes"):
        speaker.publisher.send(bytes(EVENT_BYTES + 1))
    speaker.say(1)
    await stage.until(lambda: reader.knows(speaker))


async def test_hostile_frames_are_counted_and_change_nothing(stage):
    speaker = await stage.speaker()
    reader = await stage.reader(speaker)
    hostile = [
        b"\xc1",
        b"no frame",
        b"\x91" * 2000,
        encode(Kind.EVENTS, speaker.id ^ 1, 1, [b"of another"]),
        encode(Kind.STATE_END, speaker.id, 9, [b"nobody asked for it"]),
    ]
    if stage.name != "jetstream":  # it would be kept there; that is its publisher's word
        hostile.append(encode(Kind.EVENTS, speaker.id, 2**62, [b"from the future"]))
    for frame in hostile:
        with contextlib.suppress(BadFrame):  # a plane may look at what it sends
            speaker.publisher._plane.send(frame)
    speaker.say(2)
    await stage.until(lambda: reader.knows(speaker))
    await stage.until(lambda: reader.subscription.statistics()["bad_frames"] > 0)
    speaker.say(2)
    await stage.until(lambda: reader.knows(speaker))


async def test_a_reader_can_have_everything_told_again(stage):
    speaker = await stage.speaker()
    reader = await stage.reader(speaker)
    speaker.say(KEPT_EVENTS + 1)
    await stage.until(lambda: reader.knows(speaker))
    reader.states.clear()
    reader.subscription.resync(speaker.source)
    await stage.until(lambda: reader.states == [speaker.id] and reader.knows(speaker))


async def test_closing_a_subscription_ends_its_reader(stage):
    speaker = await stage.speaker()
    reader = await stage.reader(speaker)
    await stage.until(lambda: reader.view == {speaker.id: []})
    taking = asyncio.get_running_loop().create_task(reader.subscription.take())
    await reader.subscription.close()
    await reader.subscription.close()
    assert await asyncio.wait_for(taking, 30) == []
