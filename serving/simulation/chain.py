"""The tokens that a simulated model makes: each follows from the prompt, the seed and every token before it. Pure.

So an answer that another engine continues is the same answer, if and only if that engine was given the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

from ..kv.words import word_id

WORDS = (
    "a", "actor", "and", "answers", "are", "as", "asks", "at", "board", "call", "comes", "cue",
    "curtain", "each", "every", "finds", "goes", "hears", "in", "is", "it", "keeps", "light", "line",
    "mail", "makes", "message", "moves", "name", "next", "night", "no", "of", "on", "one", "opens",
    "or", "part", "plays", "reads", "role", "runs", "says", "scene", "sends", "she", "so",
    "speaks", "stage", "stands", "stays", "stops", "takes", "tells", "the", "then", "they",
    "time", "to", "turns", "waits", "who", "with", "works",
)  # fmt: skip
_NUMBERS = {word: number for number, word in enumerate(WORDS)}
_PICK = 64 - 6
_MASK = (1 << 64) - 1
_FACTOR, _TERM = 6364136223846793005, 1442695040888963407  # Knuth's MMIX generator
assert len(WORDS) == 1 << (64 - _PICK)


def start_of(prompt: bytes, seed: int | None) -> int:
    """Return the state after a prompt."""
    digest = blake2b(prompt, digest_size=8, key=str(seed or 0).encode()[:64]).digest()
    return int.from_bytes(digest, "little")


def step(state: int, token: int) -> int:
    """Return the state after one token more."""
    return ((state ^ token) * _FACTOR + _TERM) & _MASK


def words_from(state: int, first: bool) -> Iterator[str]:
    """Yield words without end; all but the very first of an answer begin with a space."""
    space = "" if first else " "
    while True:
        number = state >> _PICK
        yield space + WORDS[number]
        state = ((state ^ number) * _FACTOR + _TERM) & _MASK
        space = " "


def ids_from(state: int, vocabulary: int) -> Iterator[int]:
    """Yield token ids from 0 to ``vocabulary`` - 1, without end."""
    while True:
        token = (state >> 16) % vocabulary
        yield token
        state = step(state, token)


def state_after_ids(state: int, ids: Iterable[int]) -> int:
    """Return the state after token ids that were given before."""
    for token in ids:
        state = step(state, token)
    return state


def state_after_words(state: int, text: str, count: int) -> tuple[int, str]:
    """Return the state after ``count`` words that were given before as ``text``, and what of them is not in the text.

    Text that may become a stop string is held back, so the last words may be missing from the text, or be cut.
    """
    at, missing = 0, ""
    for number in range(count):
        expected = ("" if number == 0 else " ") + WORDS[state >> _PICK]
        if text.startswith(expected, at) and not missing:
            at += len(expected)
        elif missing or expected.startswith(text[at:]):
            missing += expected[len(text) - at :] if not missing else expected
            at = len(text)
        else:  # somebody else's word
            word = text[at:].split(maxsplit=1)[0] if text[at:].split() else ""
            at = text.find(word, at) + len(word)
            state = step(state, _NUMBERS.get(word, word_id(word)))
            continue
        state = step(state, state >> _PICK)
    return state, missing
