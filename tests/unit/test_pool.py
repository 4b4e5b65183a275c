"""Which idle links are closed: the longest idle above the limit, and all that were idle for too long."""

import weakref

from hypothesis import given
from hypothesis import strategies as st

from callboard.transports.idle import IdleCloser
from callboard.transports.pool import to_close
from callboard.transports.settings import NetworkSettings

IDLE = st.dictionaries(st.integers(), st.floats(0, 100))
NOW = 100.0


def decide(idle, in_use=0, limit=1000, idle_s=1000.0):
    return to_close(idle, NOW, total=len(idle) + in_use, limit=limit, idle_s=idle_s)


def test_nothing_is_closed_within_limit_and_time():
    assert decide({"a": 0.0, "b": 99.0}) == []


def test_what_was_idle_for_too_long_is_closed():
    assert decide({"a": 0.0, "b": 99.0}, idle_s=50.0) == ["a"]
    assert decide({"a": 50.0}, idle_s=50.0) == ["a"]


def test_the_longest_idle_goes_first_above_the_limit():
    assert decide({"young": 90.0, "old": 10.0, "middle": 50.0}, limit=2) == ["old"]
    assert decide({"young": 90.0, "old": 10.0}, in_use=5, limit=6) == ["old"]


@given(IDLE, st.integers(0, 20), st.integers(1, 20), st.floats(0.1, 200))
def test_no_more_is_closed_than_the_limit_asks_for_and_nothing_in_use(idle, in_use, limit, idle_s):
    closed = decide(idle, in_use, limit, idle_s)
    assert set(closed) <= set(idle)
    assert len(set(closed)) == len(closed)
    stale = {link for link, since in idle.items() if NOW - since >= idle_s}
    over = max(0, len(idle) + in_use - limit)
    assert stale <= set(closed)
    assert len(closed) == max(len(stale), min(over, len(idle)))
    assert all(idle[link] <= idle[kept] for link in closed for kept in idle if kept not in closed)


class Gone:
    """A link, as far as this goes."""


async def test_a_link_that_is_down_is_held_by_nobody():
    links = [Gone(), Gone()]
    closer = IdleCloser(NetworkSettings(), lambda: links, lambda link: True)
    ends = [weakref.ref(link) for link in links]
    for link in links:
        closer.opened(link)
    closer.closed(links.pop())
    del link
    assert ends[1]() is None
    links.clear()
    closer.close()
    assert ends[0]() is None
