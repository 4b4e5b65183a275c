"""Which slot a large frame takes, and what becomes of it when its link ends: decisions over plain memory."""

import pytest

from callboard.transports.segment_pool import FREE, LEASED, MOST_SLOTS, Pool, slot_bytes_for

KIB = 1024
MIB = 1024 * KIB
NOW = 100.0


class PlainMemory(bytearray):
    """The states of a segment without its slots."""

    def __init__(self, slot_bytes, slots):
        super().__init__(slots)
        self.given_back = 0
        self.closed = False

    @property
    def states(self):
        return self

    def find_free(self):
        return self.find(FREE)

    def give_back(self):
        self.given_back += 1

    def close(self):
        self.closed = True


class Lessee:
    """A link whose peer opens everything that is offered."""

    def __init__(self, pool, owner):
        self.pool, self.owner, self.known = pool, owner, set()

    def lease(self, size, now_s=NOW):
        found = self.pool.find(size, self.known)
        if found is None:
            segment = self.pool.propose(size, self.known)
            if segment is None:
                return None
            self.known.add(segment.number)
            found = self.pool.find(size, self.known)
        segment, slot = found
        segment.lease(slot, self.owner, now_s)
        return segment, slot


def free(place):
    segment, slot = place
    segment.memory.states[slot] = FREE


def pool(limit_bytes=64 * MIB):
    return Pool(limit_bytes, PlainMemory)


@pytest.mark.parametrize(
    ("size", "slot"),
    [
        (1, 256 * KIB),
        (256 * KIB, 256 * KIB),
        (256 * KIB + 1, 512 * KIB),
        (10**6, MIB),
        (16 * MIB, 16 * MIB),
        (16 * MIB + 1, 32 * MIB),
        (64 * 10**6, 64 * MIB),
        (65 * MIB, 80 * MIB),
    ],
)
def test_a_slot_is_as_large_as_its_class(size, slot):
    assert slot_bytes_for(size) == slot


def test_a_slot_is_used_again_as_soon_as_its_state_is_free():
    lent = pool()
    link = Lessee(lent, 1)
    first = link.lease(MIB)
    second = link.lease(MIB)
    assert first != second
    free(first)
    assert link.lease(MIB) == first
    assert len(lent.segments) == 1


def test_nothing_is_found_in_a_segment_that_the_receiver_has_not_opened():
    lent = pool()
    Lessee(lent, 1).lease(MIB)
    assert lent.find(MIB, set()) is None
    assert lent.propose(MIB, set()) is next(iter(lent.segments.values()))


def test_no_second_segment_is_offered_while_the_first_one_has_room_and_is_not_open_yet():
    lent = pool()
    first = lent.propose(MIB, set())
    assert lent.propose(MIB, {first.number}) is None
    assert lent.propose(2 * MIB, {first.number}) is not None


def test_links_share_segments_and_each_has_slots_of_its_own():
    lent = pool()
    places = {Lessee(lent, owner).lease(MIB)[1] for owner in range(1, 5)}
    assert len(places) == 4
    assert len(lent.segments) == 1


def test_the_pool_never_exceeds_its_limit_and_says_that_it_is_full():
    lent = pool(5 * MIB)
    link = Lessee(lent, 1)
    places = [link.lease(MIB) for _ in range(8)]
    assert [place is None for place in places] == [False] * 5 + [True] * 3
    assert lent.total_bytes == 5 * MIB
    assert link.lease(6 * MIB) is None


def test_what_is_idle_makes_room_for_other_sizes_the_longest_unused_first():
    lent = pool(48 * MIB)
    link = Lessee(lent, 1)
    places = [link.lease(MIB, 1.0), link.lease(2 * MIB, 3.0), link.lease(4 * MIB, 2.0)]
    kept = link.lease(4 * MIB, 2.0)
    assert link.lease(16 * MIB) is None  # everything is leased
    for place in places:
        free(place)
    assert link.lease(16 * MIB, 4.0) is not None
    assert places[0][0].memory.closed
    assert places[0][0].memory.given_back == 1
    assert not places[1][0].memory.closed
    assert not kept[0].memory.closed
    assert lent.total_bytes <= 48 * MIB


def test_what_an_ended_link_holds_is_never_used_again_and_leaves_the_pool():
    lent = pool()
    dead, alive = Lessee(lent, 1), Lessee(lent, 2)
    held, other = dead.lease(MIB), alive.lease(MIB)
    lent.leave(1)
    assert lent.find(MIB, alive.known) is None
    assert not held[0].memory.closed  # the other link has not done with it
    free(other)
    lent.sweep(NOW, 5.0)
    assert held[0].memory.closed
    assert lent.total_bytes == 0
    assert held[0].memory.given_back == 0  # a reader may be alive


def test_a_link_that_ends_and_holds_nothing_takes_nothing_with_it():
    lent = pool()
    link = Lessee(lent, 1)
    free(link.lease(MIB))
    lent.leave(1)
    assert len(lent.segments) == 1


def test_links_that_come_and_die_do_not_make_the_pool_grow():
    lent = pool()
    for owner in range(1, 500):
        assert Lessee(lent, owner).lease(MIB) is not None
        lent.leave(owner)
        assert lent.total_bytes == 0


def test_pages_go_back_when_nobody_has_leased_them_for_a_while():
    lent = pool()
    link = Lessee(lent, 1)
    held, idle = link.lease(MIB), link.lease(2 * MIB)
    free(idle)
    lent.sweep(NOW + 4.0, 5.0)
    assert idle[0].memory.given_back == 0
    lent.sweep(NOW + 6.0, 5.0)
    lent.sweep(NOW + 7.0, 5.0)
    assert (idle[0].memory.given_back, held[0].memory.given_back) == (1, 0)
    assert not lent.is_idle
    free(held)
    lent.sweep(NOW + 8.0, 5.0)
    assert lent.is_idle
    assert link.lease(2 * MIB) == idle  # without another offer


def test_a_segment_that_has_gone_is_missing_and_counted():
    lent = pool()
    place = Lessee(lent, 1).lease(MIB)
    number = place[0].number
    assert number in lent
    lent.leave(1)
    assert number not in lent
    assert lent.changes == 1


def test_closing_drops_everything():
    lent = pool()
    places = [Lessee(lent, owner).lease(size * MIB) for owner in (1, 2) for size in (1, 2, 4)]
    lent.close()
    assert all(segment.memory.closed for segment, _ in places)
    assert len(places[0][0].owners) <= MOST_SLOTS
    assert places[0][0].memory[0] == LEASED
