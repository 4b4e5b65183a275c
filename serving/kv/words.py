"""Numbers for the words of a text, where nobody knows a model's tokens: what texts share, the numbers share."""

from __future__ import annotations

from xxhash import xxh32_intdigest

from .hashing import pack


def word_ids(text: str) -> bytes:
    """Return one number per word (what stands between white space), packed like tokens: the xxh32 of its UTF-8 form."""
    return pack(xxh32_intdigest(word.encode("utf-8", "surrogatepass")) for word in text.split())


def word_id(word: str) -> int:
    """Return the number of one word, given without white space around it."""
    return xxh32_intdigest(word.encode("utf-8", "surrogatepass"))
