"""Settings from tables of a config, and what one instance has of its own."""

from __future__ import annotations

import re
from typing import Any

import pytest

from callboard.serving.options import options_of_instance
from callboard.serving.worker import Worker
from callboard.transports.errors import ConfigError

ENTRIES: list[dict[str, Any]] = [
    {"engine": {"url": "a"}},
    {"engine": {"url": "b"}, "kv_events": {"endpoint": "e"}},
]


def test_an_instance_has_what_all_have_and_its_own() -> None:
    common = {"kind": "openai", "url": "x"}
    assert options_of_instance(common, ENTRIES, 1, "engine") == {"kind": "openai", "url": "b"}
    assert options_of_instance(None, ENTRIES, 0, "kv_events") is None
    assert options_of_instance(None, ENTRIES, 1, "kv_events") == {"endpoint": "e"}
    assert options_of_instance(common, None, 7, "engine") == common
    assert options_of_instance(None, None, 7, "kv_events") is None


@pytest.mark.parametrize(
    ("entries", "index", "why"),
    [
        ([{"engine": "simulated"}], 0, "instances: engine is 'simulated'; it must be a table"),
        (ENTRIES, 2, "instances has 2 entries, and this is instance 2"),
        (
            [{"engin": {}}],
            0,
            "unknown key 'engin' of instances; keys are: engine, kv_events; did you mean \"engine\"?",
        ),
        ("ab", 0, "must be a list of tables"),
        ({"engine": {}}, 0, "must be a list of tables"),
    ],
)
def test_entries_that_make_no_sense_are_named(entries: Any, index: int, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        options_of_instance({}, entries, index, "engine")


def test_a_check_looks_at_every_entry_and_at_the_lack_of_any() -> None:
    engine = {"kind": "openai", "model": "m"}
    with pytest.raises(ConfigError, match="instances has 0 entries"):
        Worker.check_args(engine=engine, instances=[])
    entries = [{"engine": {"url": "http://127.0.0.1:1"}}, {"engine": {"url": "nowhere"}}]
    with pytest.raises(ConfigError, match=r'engine\.url is "nowhere"'):
        Worker.check_args(engine=engine, instances=entries)
    Worker.check_args(engine=engine, instances=entries[:1])
