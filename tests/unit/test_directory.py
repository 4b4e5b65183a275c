"""Who is where: names, components and incarnations."""

import random

import pytest

from callboard.actors.departed import MOST, Departed, Fate
from callboard.actors.directory import Directory, Location, split_name
from callboard.actors.policy import DownKind


def at(name, incarnation=1, node="n1", number=1):
    return Location(name, node, f"memory://{node}", number, incarnation)


def test_names_are_split_into_component_and_index():
    assert split_name("worker.3") == ("worker", 3)
    assert split_name("a.b.12") == ("a.b", 12)
    for name in ("worker", "worker.", "worker.x", "worker.-1", ".5"):
        assert split_name(name) in ((name, None), ("", 5))


def test_a_newer_incarnation_takes_the_place_of_the_older_and_not_the_other_way():
    directory = Directory()
    directory.add(at("a.0", 2))
    directory.add(at("a.0", 1))
    assert directory.get("a.0").incarnation == 2
    directory.remove("a.0", 1, "late word of the old one")
    assert directory.get("a.0").incarnation == 2
    directory.add(at("a.0", 3))
    assert directory.get("a.0").incarnation == 3


def test_a_late_word_of_an_incarnation_before_the_one_that_is_down_is_ignored():
    directory = Directory()
    directory.add(at("a.0", 2))
    directory.remove("a.0", 2, "killed")
    directory.add(at("a.0", 1))
    assert directory.get("a.0") is None
    assert directory.down_reason("a.0") == "killed"
    directory.add(at("a.0", 2))  # it was only thought to be down
    assert directory.get("a.0") is not None


def test_down_differs_from_unknown():
    directory = Directory()
    directory.add(at("a.0"))
    directory.remove("a.0", 1, "killed")
    assert (directory.get("a.0"), directory.down_reason("a.0"), directory.down_reason("a")) == (
        None,
        "killed",
        "killed",
    )
    assert directory.down_reason("b.0") is None
    directory.forget("a.0")
    assert directory.down_reason("a.0") is None
    assert directory.names() == []


def test_what_became_of_an_incarnation_is_kept_with_its_kind_and_told_as_it_leaves():
    directory, gone = Directory(), []
    directory.on_gone = lambda location, fate: gone.append((location.incarnation, fate))
    directory.add(at("a.0"))
    directory.add(at("a.0"))  # the same again: nobody has left
    directory.add(at("a.0", 2, number=2))
    directory.remove("a.0", 1, "late word")
    directory.remove("a.0", 2, "it failed", DownKind.FAILED)
    directory.remove("a.0", 2, "again", DownKind.KILLED)
    failed = Fate(2, DownKind.FAILED, "it failed")
    assert gone == [(1, Fate(1, DownKind.UNKNOWN, "incarnation 2 has taken its place")), (2, failed)]
    assert directory.fate("a.0") == failed


def test_one_that_was_never_up_here_is_remembered_as_down():
    directory = Directory()
    directory.remove("a.0", 3, "killed before we came", DownKind.KILLED)
    directory.remove("a.0", 2, "an older one", DownKind.FAILED)
    assert directory.fate("a.0") == (3, DownKind.KILLED, "killed before we came")
    assert directory.down_reason("a") == "killed before we came"
    directory.add(at("a.0", 2))
    assert directory.get("a.0") is None
    directory.add(at("a.0", 4))
    assert directory.fate("a.0") is None


def test_the_instances_of_a_component_come_in_the_order_of_their_index():
    directory = Directory()
    indices = list(range(12))
    random.shuffle(indices)
    for index in indices:
        directory.add(at(f"w.{index}"))
    directory.add(at("other.0"))
    assert [one.name for one in directory.instances("w")] == [f"w.{index}" for index in range(12)]
    directory.remove("w.5", 1, "stopped")
    directory.add(at("w.3", 2, "n2"))
    names = [one.name for one in directory.instances("w")]
    assert names == [f"w.{index}" for index in range(12) if index != 5]
    assert directory.instances("w")[3].node == "n2"
    assert directory.instances("nothing") == []


def test_a_node_that_is_down_takes_its_actors_along():
    directory = Directory()
    for index in range(4):
        directory.add(at(f"w.{index}", node=f"n{index % 2}"))
    gone = directory.node_down("n0", "its process was killed")
    assert sorted(one.name for one in gone) == ["w.0", "w.2"]
    assert [one.name for one in directory.instances("w")] == ["w.1", "w.3"]
    assert directory.down_reason("w.2") == "its process was killed"


def test_every_known_name_is_listed_with_its_component():
    directory = Directory()
    directory.add(at("w.0"))
    directory.add(at("single"))
    directory.remove("w.0", 1, "down")
    assert directory.names() == ["single", "w", "w.0"]


def test_listeners_are_called_after_each_change_until_they_leave():
    directory = Directory()
    seen = []
    leave = directory.on_change(lambda: seen.append(directory.version))
    other = directory.on_change(leave)  # one that ends another in the middle of a change
    directory.add(at("a.0"))
    directory.remove("a.0", 1, "down")
    directory.remove("a.0", 1, "again")  # nothing changes
    assert seen == [1]
    other()
    other()
    leave()


def test_a_location_travels_as_plain_data_and_ignores_what_it_does_not_know():
    location = Location("a.0", "n1", "tcp://127.0.0.1:1", 7, 3, 100, 2000)
    assert Location.from_wire(location.to_wire()) == location
    assert Location.from_wire([*location.to_wire(), "newer"]) == location
    with pytest.raises(ValueError, match="not enough values"):
        Location.from_wire(location.to_wire()[:5])


def test_what_died_longest_ago_is_forgotten_and_the_rest_keeps_its_order():
    directory = Directory()
    for number in range(1500):
        directory.add(at(f"job-{number}.0", 2))
        directory.remove(f"job-{number}.0", 2, "done")
    assert directory.names()[:1] != ["job-0"]
    assert len(directory._down) == MOST
    assert not directory._components
    assert directory.down_reason("job-0.0") is None
    assert directory.down_reason("job-1499") == "done"
    directory.add(at("job-1499.0", 1))  # late news of the one before
    assert directory.get("job-1499.0") is None
    directory.add(at("job-1499.0", 3))
    assert directory.get("job-1499.0").incarnation == 3


def test_a_name_that_died_again_is_among_the_latest():
    departed = Departed(3)
    for name in "abc":
        departed.note(name, 1, "killed")
    departed.note("a", 2, "killed again")
    departed.note("d", 1, "killed")
    assert list(departed) == ["c", "a", "d"]
    assert (departed.incarnation("a"), departed.reason("a")) == (2, "killed again")
    assert (departed.incarnation("b"), departed.reason("b")) == (0, None)
    departed.drop("a")
    departed.drop("a")
    assert len(departed) == 2


def test_who_is_down_when_we_come_is_known_to_be_down():
    directory = Directory()
    directory.remove("w.0", 3, "killed")
    assert (directory.get("w.0"), directory.instances("w")) == (None, [])
    assert directory.down_reason("w.0") == directory.down_reason("w") == "killed"
    directory.remove("w.0", 2, "late word of an older one")
    directory.remove("w.0", 3, "again")
    assert directory.down_reason("w.0") == "killed"
    directory.remove("w.0", 4, "killed once more")
    assert directory.down_reason("w.0") == "killed once more"


def test_instances_stay_in_order_whatever_comes_and_goes_beside_them_and_old_lists_stay_as_they_were():
    directory = Directory()
    for name in ("w.2", "w", "w.10", "w.0", "w.1"):
        directory.add(Location(name, "node", "memory://a", 1))
    before = directory.instances("w")
    directory.add(Location("w.1", "node", "memory://a", 2, 2))
    directory.remove("w.0", 1, "it died")
    after = [(one.name, one.incarnation) for one in directory.instances("w")]
    assert after == [("w", 1), ("w.1", 2), ("w.2", 1), ("w.10", 1)]
    assert sorted(one.name for one in before) == ["w", "w.0", "w.1", "w.10", "w.2"]
