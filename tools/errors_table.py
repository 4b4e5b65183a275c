"""Prints docs/errors.md: what a caller gets for each fault, from the table that the conformance suite runs.

python tools/errors_table.py > docs/errors.md
"""

from __future__ import annotations

from collections.abc import Iterator

from callboard.actors.policy import Executed
from callboard.testing.conformance.actors.outcome_table import GROUPS, Row

HEAD = """\
# What a caller gets

Made by `python tools/errors_table.py > docs/errors.md` from the table that the conformance suite runs on every plane;
do not edit it.

Each fault at each moment has one outcome. `executed` says whether the handler of the message ran: `never`, `maybe`
(nobody can know here), `yes`. A retry is safe if it says `never`, or if the method may run twice (`@idempotent`).
Every error of callboard has `executed`, `retry_is_safe`, `actor` and `incarnation` as attributes; an exception of the
application arrives as its own class, and `callboard.outcome(error)` says the same of it.

Of an error that passes through several actors, callboard's own name the innermost actor, those of the application
the one that was asked; `executed` is always that of the message that was asked here.

Where a row says nothing else, it holds between processes, on every plane, and within one process.
"""


def lines(rows: tuple[Row, ...]) -> Iterator[str]:
    """One table."""
    yield "| fault | moment | error | `executed` | retry is safe | names |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        moment = ", ".join(part for part in (row.moment, row.where.value) if part)
        safe = "yes" if row.executed is Executed.NEVER else "no"
        cells = (row.fault, moment, f"`{row.error}`", row.executed.value, safe, row.names.value)
        yield f"| {' | '.join(cells)} |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, rows in GROUPS.items():
        parts += [f"\n## {title}\n", *(f"{line}\n" for line in lines(rows))]
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
