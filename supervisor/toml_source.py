"""TOML with places: the data of a file, the line of every key in it, and every mistake in its syntax.

`tomllib` knows no lines and stops at its first error. So a scanner walks the text beside it and notes where
each key stands; a line that `tomllib` refuses is taken out and the rest is read again, so that one run
reports all mistakes of a file. What the scanner does not understand it leaves to `tomllib` to refuse.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str | int, ...]
"""A place in the data: keys of tables, indices of arrays."""

REMOVED = "__removed"
MOST_SYNTAX_ERRORS = 20

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED_KEY = re.compile(r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'')
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_STRING = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL)
_LINE_IN_ERROR = re.compile(r" \(at line (\d+), column \d+\)$")


@dataclass(slots=True)
class TomlSource:
    """The parsed file. ``damaged`` are tables of which a line was taken out: they may lack keys."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    damaged: set[Path] = field(default_factory=set)

    def line(self, path: Path) -> int:
        """The line of a key or table, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse_toml(text: str) -> TomlSource:
    """Read all of ``text`` that can be read."""
    text = text.replace("\r\n", "\n")
    source = TomlSource()
    while True:
        scanner = _Scanner(text, source)
        scanner.run()
        text = scanner.text
        try:
            source.data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line = _error_line(error, text)
            source.problems.append((line, _error_text(error)))
            if len(source.problems) >= MOST_SYNTAX_ERRORS or not _take_out(line, text, scanner):
                break
            text = scanner.text
            continue
        break
    source.data = {key: value for key, value in source.data.items() if not key.startswith(REMOVED)}
    return source


def _error_line(error: tomllib.TOMLDecodeError, text: str) -> int:
    match = _LINE_IN_ERROR.search(str(error))
    return int(match[1]) if match else text.count("\n") + (not text.endswith("\n"))


def _error_text(error: tomllib.TOMLDecodeError) -> str:
    text = str(error)
    for tail in (_LINE_IN_ERROR, re.compile(r" \(at end of document\)$")):
        text = tail.sub("", text)
    return f"not TOML: {text[:1].lower()}{text[1:]}"


def _take_out(line: int, text: str, scanner: _Scanner) -> bool:
    """Blank one refused line; False if that cannot help."""
    lines = text.split("\n")
    if not 1 <= line <= len(lines) or not lines[line - 1].strip():
        return False
    table = max((entry for entry in scanner.headers if entry[0] <= line), default=(0, ()))
    scanner.source.damaged.add(table[1])
    is_header = lines[line - 1].lstrip().startswith("[")
    lines[line - 1] = f"[{REMOVED}_{line}]" if is_header else ""
    scanner.text = "\n".join(lines)
    return True


class _Scanner:
    """Walks well-formed TOML and notes lines; gives up quietly where it is not well-formed."""

    def __init__(self, text: str, source: TomlSource) -> None:
        self.text, self.source = text, source
        self.headers: list[tuple[int, Path]] = []
        self._at = 0
        self._prefix: Path = ()
        self._arrays: dict[Path, int] = {}
        self._tables: set[Path] = set()
        self._keys: set[Path] = set()
        source.lines.clear()

    def run(self) -> None:
        """Scan everything; duplicates are reported and renamed, so that `tomllib` accepts the rest."""
        self._skip(_BLANK)
        while self._at < len(self.text):
            started = self._at
            try:
                if self.text[self._at] == "[":
                    self._header()
                else:
                    self._pair(self._prefix)
            except (_Malformed, RecursionError):
                self._at = max(self._at, started)
                end = self.text.find("\n", self._at)
                self._at = len(self.text) if end < 0 else end
            self._skip(_BLANK)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self._at)
        if match is None:
            raise _Malformed
        self._at = match.end()
        return match[0]

    def _expect(self, literal: str) -> None:
        if not self.text.startswith(literal, self._at):
            raise _Malformed
        self._at += len(literal)

    def _line(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_SPACE)
            if self.text[self._at : self._at + 1] in ("'", '"'):
                parts.append(_unquote(self._skip(_QUOTED_KEY)))
            else:
                parts.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if not self.text.startswith(".", self._at):
                return parts
            self._at += 1

    def _header(self) -> None:
        started = self._at
        is_array = self.text.startswith("[[", started)
        self._expect("[[" if is_array else "[")
        path = self._resolve(tuple(self._key()))
        self._expect("]]" if is_array else "]")
        line = self._line(started)
        if is_array:
            index = self._arrays[path] = self._arrays.get(path, -1) + 1
            path = (*path, index)
        elif path in self._tables or path in self._keys:
            self._report_twice(path, line)
            self._replace(started, self._at, f"[{REMOVED}_{line}]")
            path = (f"{REMOVED}_{line}",)
        self._tables.add(path)
        self._prefix = path
        self.headers.append((line, path))
        self._note(path, line)

    def _resolve(self, path: Path) -> Path:
        resolved: Path = ()
        for part in path[:-1]:
            resolved = (*resolved, part)
            if resolved in self._arrays:
                resolved = (*resolved, self._arrays[resolved])
        return (*resolved, path[-1])

    def _pair(self, prefix: Path) -> None:
        started = self._at
        path = (*prefix, *self._key())
        ended = self._at
        line = self._line(started)
        if path in self._keys or path in self._tables:
            self._report_twice(path, line)
            self._replace(started, ended, f"{REMOVED}_{line}_{started} ")
            path = (*prefix, f"{REMOVED}_{line}")
        else:
            self._keys.add(path)
            self._note(path, line)
        self._expect("=")
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        first = self.text[self._at : self._at + 1]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif first in ("'", '"'):
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)

    def _array(self, path: Path) -> None:
        self._expect("[")
        index = 0
        self._skip(_BLANK)
        while not self.text.startswith("]", self._at):
            self._note((*path, index), self._line(self._at))
            self._value((*path, index))
            index += 1
            self._skip(_BLANK)
            if not self.text.startswith("]", self._at):
                self._expect(",")
                self._skip(_BLANK)
        self._expect("]")

    def _inline_table(self, path: Path) -> None:
        self._expect("{")
        self._skip(_BLANK)
        while not self.text.startswith("}", self._at):
            self._pair(path)
            self._skip(_BLANK)
            if not self.text.startswith("}", self._at):
                self._expect(",")
                self._skip(_BLANK)
        self._expect("}")

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.source.lines.setdefault(path[:length], line)
        if path in self._tables:
            self.source.lines[path] = line

    def _report_twice(self, path: Path, line: int) -> None:
        place = ".".join(map(str, path))
        first = self.source.lines.get(path, 1)
        self.source.problems.append((line, f"{place}: stands here twice; the first is in line {first}"))

    def _replace(self, start: int, end: int, text: str) -> None:
        self.text = self.text[:start] + text + self.text[end:]
        self._at = start + len(text)


class _Malformed(Exception):
    """Not TOML here: `tomllib` will say what is wrong."""


def _unquote(text: str) -> str:
    if text.startswith("'"):
        return text.strip("'")
    try:
        value: str = tomllib.loads(f"k = {text}")["k"]
    except tomllib.TOMLDecodeError:
        raise _Malformed from None
    return value
