"""TOML with places: the scanner knows the line of every key that tomllib finds, and survives any text."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from callboard.supervisor.toml_source import parse_toml

TEXT = '''\
a = 1 # comment with = and [brackets]
"b c" = "x = 3"
d.e = [
  1,
  { ref = "x" },
]
[table]
text = """
key = "not a key"
"""
literal = \'\'\'
[not.a.table]\'\'\'
inline = { k = { l = [ { m = 1 } ] } }
[table.'sub.table']
n = 2024-01-01T00:00:00Z
[[list]]
o = 1
[[list]]
p = 2
[list.q]
r = -inf
'''


def test_every_key_has_its_line() -> None:
    source = parse_toml(TEXT)
    assert source.problems == []
    assert source.data == tomllib.loads(TEXT)
    expected: dict[tuple[Any, ...], int] = {
        ("a",): 1, ("b c",): 2, ("d", "e"): 3, ("d", "e", 0): 4, ("d", "e", 1, "ref"): 5, ("table",): 7,
        ("table", "text"): 8, ("table", "literal"): 11, ("table", "inline", "k", "l", 0, "m"): 13,
        ("table", "sub.table", "n"): 15, ("list", 0, "o"): 17, ("list", 1, "p"): 19,
        ("list", 1, "q", "r"): 21,
    }  # fmt: skip
    assert {path: source.line(path) for path in expected} == expected


def test_a_place_without_a_line_has_the_line_of_what_holds_it() -> None:
    source = parse_toml("a = 1\n[b]\nc = 1\n")
    assert source.line(("b", "missing", "deeper")) == 2
    assert source.line(("nothing",)) == 1


def test_several_mistakes_of_the_syntax_are_found_at_once() -> None:
    source = parse_toml("a = \nb = 1\nb = 2\n[c\nd = 1\n[e]\n[e]\nf = 'x\n")
    assert {line for line, _ in source.problems} == {1, 3, 4, 7, 8}
    assert source.data["b"] == 1


@given(st.text(alphabet="ab.=[]{}\"'\\\n #,1", max_size=60))
def test_no_text_breaks_it_and_data_agree_with_tomllib(text: str) -> None:
    source = parse_toml(text)
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assert source.problems
    else:
        assert source.problems == []
        assert source.data == expected
