"""Who publishes, as the supervisor tells it: with the life of the process, also to those who come later."""

from __future__ import annotations

from callboard.actors.directory import Location
from callboard.actors.policy import DownKind
from callboard.supervisor import control
from callboard.supervisor.roster import Roster
from callboard.transports.events.base import Source

LOCATION = Location("speaker.0", "near", "tcp://127.0.0.1:1", 1)


def source(identifier: int = 7, node: str = "near") -> Source:
    return Source(topic="t", component="speaker", name="speaker.0", incarnation=1, node=node, id=identifier)


class Follower:
    """Knows the sources that it was told of."""

    def __init__(self, roster: Roster, node: str = "") -> None:
        self.known: set[int] = set()
        self.told = 0
        roster.follow(self._take, node=node)

    def _take(self, push: object) -> None:
        if isinstance(push, control.SourceAdd):
            self.told += 1
            self.known |= {Source.from_wire(fields).id for fields in push.sources}
        elif isinstance(push, control.SourceRemove):
            self.known.discard(push.id)
        elif isinstance(push, control.NodeDown):
            self.known.clear()  # there is one node here


def test_a_source_is_known_to_all_others_as_long_as_its_process_lives() -> None:
    roster = Roster()
    early, own = Follower(roster), Follower(roster, "near")
    roster.add(LOCATION)
    roster.publishes(source())
    late = Follower(roster)
    assert (early.known, late.known, own.known) == ({7}, {7}, set())
    roster.node_down("near", "it was killed", DownKind.KILLED)
    assert (early.known, late.known, Follower(roster).known) == (set(), set(), set())


def test_who_comes_while_a_process_is_frozen_is_told_of_its_sources_when_it_is_back() -> None:
    roster = Roster()
    roster.add(LOCATION)
    roster.publishes(source())
    early = Follower(roster)
    roster.node_down("near", "it is frozen", DownKind.UNREACHABLE)
    late = Follower(roster)
    assert (early.known, late.known) == (set(), set())
    roster.publishes(source(8))  # it was on its way
    assert late.known == set()
    roster.node_back("near")
    assert (early.known, late.known) == ({7, 8}, {7, 8})
    roster.node_down("near", "it is frozen", DownKind.UNREACHABLE)
    roster.node_down("near", "it was killed", DownKind.KILLED)
    roster.node_back("near")
    assert (early.known, Follower(roster).known) == (set(), set())


def test_an_actor_more_is_no_news_of_sources() -> None:
    roster = Roster()
    follower = Follower(roster)
    roster.publishes(source())
    for number in range(3):
        roster.add(Location(f"speaker.{number}", "near", "tcp://127.0.0.1:1", number))
    assert follower.told == 1
