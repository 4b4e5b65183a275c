"""Rewrites the parts of a document between ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from callboard.transports.errors import CallboardError

PART = re.compile(r"(<!-- bench:(\w+) -->\n)(.*?)(<!-- /bench:\2 -->)", re.DOTALL)


class NoParts(CallboardError):
    """A document to be updated has no place for results."""

    def __init__(self, document: str) -> None:
        super().__init__(
            f"{document} has no generated parts; put `<!-- bench:targets -->` and `<!-- /bench:targets -->` on lines"
            " of their own where they shall be (also: comparison, growth, skipped, run, costs, routing, routing_live)"
        )


def update(text: str, parts: Mapping[str, str], document: str) -> str:
    """Return the document with new parts; those for which there is nothing stay. Raises `NoParts`."""
    if not PART.search(text):
        raise NoParts(document)

    def filled(match: re.Match[str]) -> str:
        new = parts.get(match[2], "")
        return f"{match[1]}{new}\n{match[4]}" if new else match[0]

    return PART.sub(filled, text)
