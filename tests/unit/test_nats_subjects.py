"""Names as tokens of subjects: whatever a name holds, its subject is valid, its own, and nobody else's."""

import re

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import _validate_subject

from callboard.transports.nats_subjects import Subjects, token

VALID = re.compile(r"[A-Za-z0-9=-][A-Za-z0-9_=-]*")
NAMES = st.text(st.characters()) | st.text("a_.*>= \r\n\0$-\ud800é", max_size=6)
"""Lone surrogates included: a name may come from a file name."""


def name_of(subject_token):
    """The inverse of `token`: that there is one shows that nothing of a name is lost."""
    decoded = re.sub(
        rb"=([0-9A-F]{2})", lambda found: bytes((int(found.group(1), 16),)), subject_token.encode()
    )
    return "" if subject_token == "=" else decoded.decode("utf-8", "surrogatepass")


@given(NAMES)
def test_a_name_is_always_one_valid_token(name):
    assert VALID.fullmatch(token(name))


@given(NAMES, NAMES)
def test_different_names_are_different_tokens(one, other):
    assert (token(one) == token(other)) == (one == other)


@given(NAMES)
def test_a_token_gives_its_name_back(name):
    assert name_of(token(name)) == name


@given(NAMES, NAMES, st.none() | st.integers(0))
def test_no_name_leads_out_of_its_namespace_or_into_subjects_that_are_ours(namespace, component, index):
    subjects = Subjects("callboard", namespace)
    for subject in (
        subjects.component(component),
        subjects.instance(component, index),
        subjects.node(component),
    ):
        assert subject.startswith(f"callboard.{token(namespace)}.")
        _validate_subject(subject)
    assert not subjects.component(component).startswith(f"{subjects.root}._")
    assert len(subjects.instance(component, index).split(".")) == 4


PREFIXES = st.text("a_-.", min_size=1, max_size=4)


@given(st.tuples(PREFIXES, NAMES), st.tuples(PREFIXES, NAMES), NAMES, NAMES)
def test_what_is_kept_of_events_has_a_name_of_its_own_that_the_server_takes(one, other, topic, component):
    mine, theirs = Subjects(*one), Subjects(*other)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", mine.snapshots())
    assert (mine.snapshots() == theirs.snapshots()) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9=_-]+", mine.events_stream(topic))
    assert (mine.events_stream(topic) == theirs.events_stream(topic)) == (one == other)
    assert mine.events_stream(topic) != theirs.stream(component)
