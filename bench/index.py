"""Measures the index of prefixes beside Dynamo's, shape by shape, in turns, each in a fresh process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Sequence

from .drivers import Drivers
from .index_shapes import SHAPES
from .lines import OWN, Line
from .measuring import Skipped
from .tables import factor, number, table

DRIVER = "index_trial"
PEER = "dynamo"
SIZES = (10_000, 1_000_000)
UNITS = {
    "apply": "blocks/s",
    "remove": "blocks/s",
    "punch": "blocks/s",
    "match": "us",
    "first-match": "us",
    "memory": "B/block",
    "memory-after": "B/block",
}
SHOWN = {"apply": "stores", "match": "match", "remove": "removals", "memory": "memory"}


async def measure(
    shapes: Sequence[str], sizes: Sequence[int], reps: int, drivers: Drivers
) -> AsyncIterator[Line]:
    """Yield the lines of each shape and size as they are done; the peer's with the reason if it has none."""
    for size in sizes:
        for shape in shapes:
            tallies: dict[str, dict[str, list[float]]] = {OWN: {}, PEER: {}}
            skipped: dict[str, str] = {}
            for _ in range(reps):
                for who, tally in tallies.items():
                    if who in skipped:
                        continue
                    try:
                        for case, value in (await _trial(who, shape, size, drivers)).items():
                            tally.setdefault(case, []).append(value)
                    except Skipped as why:
                        skipped[who] = str(why)
            for who, tally in tallies.items():
                if who in skipped:
                    yield Line(peer=who, plane="-", case=shape, unit="", at=size, skipped=skipped[who])
                else:
                    for case, values in tally.items():
                        yield Line.of(who, "-", f"{shape}/{case}", UNITS[case], values, size)


async def _trial(who: str, shape: str, size: int, drivers: Drivers) -> dict[str, float]:
    if who == PEER:
        output = await drivers.run(PEER, DRIVER, PEER, shape, str(size))
    else:
        output = await _own(shape, size)
    values: dict[str, float] = json.loads(output.strip().rpartition("\n")[2])
    if why := values.get("skipped"):
        raise Skipped(str(why))
    return values


async def _own(shape: str, size: int) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", f"{__package__}.peers.{DRIVER}", OWN, shape, str(size)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise RuntimeError(
            f"the trial of {shape} with {size} blocks ended with exit code {process.returncode}"
        )
    return output.decode()


def text(lines: Iterable[Line]) -> str:
    """Return a table: callboard's figures, and Dynamo's as a multiple of callboard's time or memory."""
    found = {(line.peer, line.case, line.at): line for line in lines}
    sizes = list(dict.fromkeys(at for _, _, at in found if at is not None))
    rows = []
    for size in sizes:
        for shape in SHAPES:
            if (OWN, f"{shape}/apply", size) not in found:
                continue
            cells = [_cell(found, shape, case, size) for case in SHOWN]
            rows.append([f"{shape}, {size:,}", *cells])
    head = ["shape, blocks", *(f"{what}, {UNITS[case]}" for case, what in SHOWN.items())]
    return table(head, rows)


def _cell(found: dict[tuple[str, str, int | None], Line], shape: str, case: str, size: int) -> str:
    own, peer = found[OWN, f"{shape}/{case}", size], found.get((PEER, f"{shape}/{case}", size))
    if peer is None or not peer.value or not own.value:
        return number(own.value)
    ratio = own.value / peer.value if UNITS[case].endswith("/s") else peer.value / own.value
    return f"{number(own.value)} (x{factor(ratio)})"
