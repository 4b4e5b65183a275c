"""The bounded queue in front of an actor: what fits, what goes, and what is counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from callboard.actors.inside import Inside
from callboard.actors.mailbox import Admit, Letter, Mailbox
from callboard.actors.policy import MailboxPolicy, Overflow
from callboard.transports.errors import ConfigError


def letter(size=0, number=0):
    return Letter(1, number, b"body", size=size)


def mailbox(**policy):
    return Mailbox(MailboxPolicy(**policy))


def test_it_takes_as_many_messages_as_it_may_hold():
    box = mailbox(messages=3)
    assert [box.accept(letter()) for _ in range(4)] == [True, True, True, False]
    assert (len(box), box.full) == (3, True)


def test_it_takes_messages_until_its_bytes_are_used_up():
    box = mailbox(bytes=100)
    assert [box.accept(letter(size)) for size in (40, 59, 30, 1)] == [True, True, True, False]
    assert (box.bytes, box.full) == (129, True)  # the last one may go beyond, as with credit


def test_one_message_always_fits_however_large():
    box = mailbox(messages=1, bytes=1)
    assert box.accept(letter(10**9))
    assert not box.accept(letter())


def test_room_beside_kept_places_is_counted():
    box = mailbox(messages=3)
    box.accept(letter())
    assert [box.has_room(reserved) for reserved in (0, 1, 2)] == [True, True, False]


@pytest.mark.parametrize(
    ("overflow", "admit", "victims", "left"),
    [
        (Overflow.REJECT, Admit.REFUSED, [9], [0, 1]),
        (Overflow.DROP_NEWEST, Admit.REFUSED, [9], [0, 1]),
        (Overflow.DROP_OLDEST, Admit.TAKEN, [0], [1, 9]),
        (Overflow.BLOCK, Admit.TAKEN, [], [0, 1, 9]),
        (Overflow.FAIL, Admit.FAIL, [9], [0, 1]),
    ],
)
def test_what_a_full_mailbox_does(overflow, admit, victims, left):
    box = mailbox(messages=2, overflow=overflow)
    for number in range(2):
        box.accept(letter(number=number))
    new = letter(number=9)
    assert not box.accept(new)
    did, refused = box.overflow(new)
    assert (did, [one.id for one in refused]) == (admit, victims)
    assert [one.id for one in box.queue] == left
    assert box.overflows == 1


def test_drop_oldest_makes_room_in_bytes_too():
    box = mailbox(messages=100, bytes=100, overflow=Overflow.DROP_OLDEST)
    for number in range(20):
        box.accept(letter(10, number))
    for number in range(20, 30):
        new = letter(90, number)
        if not box.accept(new):
            box.overflow(new)
        assert box.bytes < 200


def test_a_cancelled_message_no_longer_counts_and_holds_no_data():
    box = mailbox(messages=2, bytes=100)
    first, second = letter(60, 1), letter(30, 2)
    box.accept(first)
    box.accept(second)
    box.cancel(first)
    assert (len(box), box.bytes, first.body, first.cancelled) == (1, 30, None, True)
    assert box.accept(letter(60, 3))
    assert box.take_oldest() is second


def test_husks_of_cancelled_messages_do_not_pile_up():
    box = mailbox(messages=10)
    keep = letter(number=1)
    box.accept(keep)
    for _ in range(10_000):
        gone = letter(5)
        assert box.accept(gone)
        box.cancel(gone)
    assert len(box.queue) < 200
    assert (len(box), box.bytes) == (1, 0)
    assert box.drain() == [keep]


@pytest.mark.parametrize(("field", "value"), [("messages", 0), ("bytes", 0), ("messages", -1)])
def test_bounds_that_hold_nothing_are_refused(field, value):
    with pytest.raises(
        ConfigError, match=f"mailbox.{field} is {value}; it must be a whole number, at least 1"
    ):
        MailboxPolicy(**{field: value})


class Model(RuleBasedStateMachine):
    """Against a plain list: the same letters in the same order, whatever is cancelled in between."""

    def __init__(self):
        super().__init__()
        self.box = mailbox(messages=80, bytes=500, overflow=Overflow.DROP_OLDEST)
        self.letters = []

    @rule(size=st.integers(0, 60))
    def put(self, size):
        new = letter(size)
        if not self.box.accept(new):
            _, dropped = self.box.overflow(new)
            assert dropped == self.letters[: len(dropped)]
            del self.letters[: len(dropped)]
        self.letters.append(new)

    @precondition(lambda self: self.letters)
    @rule(data=st.data())
    def cancel(self, data):
        gone = self.letters.pop(data.draw(st.integers(0, len(self.letters) - 1)))
        self.box.cancel(gone)

    @rule()
    def take(self):
        assert self.box.take_oldest() is (self.letters.pop(0) if self.letters else None)

    @invariant()
    def the_counts_are_right(self):
        assert len(self.box) == len(self.letters)
        assert self.box.bytes == sum(one.size for one in self.letters)
        assert [one for one in self.box.queue if not one.cancelled] == self.letters
        assert self.box.husks == sum(one.cancelled for one in self.box.queue)
        assert len(self.letters) <= 80


TestModel = Model.TestCase


@given(st.lists(st.integers(0, 40)), st.integers(1, 5), st.integers(1, 100))
def test_it_is_full_exactly_when_one_more_message_does_not_fit(sizes, messages, limit):
    box = mailbox(messages=messages, bytes=limit)
    for size in sizes:
        full = box.full
        assert box.has_room(0) is not full
        assert box.accept(letter(size)) is not full


def own(number=0, *, urgent=False):
    """A letter of the actor itself."""
    one = letter(0, number)
    one.origin = Urgent(None) if urgent else Inside(None)
    return one


class Urgent(Inside):
    urgent = True


def test_what_is_put_first_goes_behind_what_is_urgent():
    box = mailbox()
    for number in (1, 2):
        box.accept(letter(0, number))
    for number in (10, 11):
        box.put_first([own(number, urgent=True)])
    box.put_first([letter(0, 20), letter(0, 21)])
    assert [one.id for one in box.queue] == [10, 11, 20, 21, 1, 2]


def test_thousands_of_urgent_letters_are_not_counted_each_time():
    class Looked(Inside):
        looks = 0

        @property
        def urgent(self):
            Looked.looks += 1
            return True

    box = mailbox()
    box.accept(letter(0, 5000))
    for number in range(1000):
        one = letter(0, number)
        one.origin = Looked(None)
        box.put_first([one])
    assert [one.id for one in box.queue] == [*range(1000), 5000]
    assert Looked.looks < 1000 * 20


def test_letters_of_the_actor_itself_are_never_dropped_for_room():
    box = mailbox(messages=3, overflow=Overflow.DROP_OLDEST)
    box.put_first([own(1, urgent=True)])
    box.accept(letter(5, 2))
    box.put(own(3))
    assert box.overflow(letter(5, 4))[1][0].id == 2
    assert [one.id for one in box.queue] == [1, 3, 4]
    full = mailbox(messages=1, overflow=Overflow.DROP_OLDEST)
    full.put(own(1))
    assert full.overflow(letter(5, 2)) == (Admit.TAKEN, [])
    assert [one.id for one in full.queue] == [1, 2]


def test_what_is_set_aside_counts_until_it_is_put_back_and_taken_or_cancelled():
    box = mailbox(messages=3, bytes=100)
    letters = [letter(20, number) for number in range(3)]
    for one in letters:
        assert box.accept(one)
    taken = [box.take_oldest(), box.take_oldest()]
    for one in taken:
        box.set_aside(one)
    assert (len(box), box.bytes, box.full) == (3, 60, True)
    box.cancel(taken[0])
    assert (len(box), box.bytes, box.full) == (2, 40, False)
    box.put_back([taken[1]])
    assert (len(box), box.bytes) == (2, 40)
    assert [one.id for one in box.queue] == [1, 2]
    assert [box.take_oldest(), box.take_oldest(), box.take_oldest()] == [*letters[1:], None]
    assert (len(box), box.bytes, box.husks) == (0, 0, 0)


def test_clearing_away_husks_leaves_the_count_of_what_is_set_aside():
    box = mailbox(messages=1000)
    aside = letter(1, 0)
    box.accept(aside)
    box.take_oldest()
    box.set_aside(aside)
    letters = [letter(1, number) for number in range(300)]
    for one in letters:
        box.accept(one)
    for one in letters[:250]:
        box.cancel(one)
    assert len(box) == 51
    assert len(box.queue) < 200
    box.put_back([aside])
    assert len(box) == 51
    assert box.bytes == 51


def test_what_is_set_aside_counts_while_peers_are_sent_back_too():
    box = mailbox()
    aside, from_peer, gone = letter(5, 1), letter(7, 2), letter(9, 3)
    for one in (aside, from_peer, gone):
        one.inlet = object()
        box.accept(one)
    box.set_aside(box.take_oldest())
    box.cancel(gone)
    assert box.take_from_peers() == [from_peer]
    assert (len(box), box.bytes) == (1, 5)
    box.put_back([aside])
    assert (len(box), box.bytes, box.husks) == (1, 5, 0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"messages": "4"}, "mailbox.messages is '4'; it must be a whole number"),
        ({"bytes": 1.5}, "mailbox.bytes is 1.5; it must be a whole number"),
        (
            {"overflow": "block"},
            "mailbox.overflow is 'block'; it must be Overflow.REJECT or Overflow.BLOCK or",
        ),
    ],
)
def test_a_policy_of_other_types_is_refused_where_it_is_made(options, text):
    with pytest.raises(ConfigError, match=text):
        MailboxPolicy(**options)
