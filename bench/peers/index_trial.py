"""Puts one index of prefixes through one workload in a process of its own. Standard library, and the index.

python -m callboard.bench.peers.index_trial callboard long 10000
"""

from __future__ import annotations

import gc
import json
import sys
from array import array
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from itertools import starmap
from pathlib import Path
from time import process_time
from typing import Any, Protocol

from ..index_shapes import Remove, Store, Workload, workload


class Subject(Protocol):
    """An index, and how operations must be given to it."""

    def storing(self, one: Store) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return what is to be called for a store, and the arguments."""
        ...

    def removing(self, one: Remove) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return what is to be called for a removal, and the arguments."""
        ...

    def asking(self, local: list[int]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return what is to be called for a match, and the arguments."""
        ...


class Own:
    """callboard's."""

    def __init__(self) -> None:
        from callboard.serving.kv.index import PrefixIndex  # the peer's process does not have what it needs

        self.index: Any = PrefixIndex(max_blocks=1 << 40)

    def storing(self, one: Store) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Hashes come packed, as they travel."""
        rank = (one.rank, 0)
        return self.index.store, (rank, one.parent, _packed(one.local), _packed(one.sequence))

    def removing(self, one: Remove) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Hashes come as numbers."""
        return self.index.remove, ((one.rank, 0), array("Q", one.sequence))

    def asking(self, local: list[int]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The hashes of a prompt come packed."""
        return self.index.match, (_packed(local),)


class Dynamo:
    """Dynamo's, by its Python bindings, which take events as JSON: reading it is part of their time."""

    def __init__(self) -> None:
        self.tree = import_module("dynamo._core").RadixTree()
        self._number = 0

    def _event(self, rank: int, data: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        self._number += 1
        event = {"event_id": self._number, "data": data, "dp_rank": 0}
        return self.tree.apply_event, (rank, json.dumps(event).encode())

    def storing(self, one: Store) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Blocks come with both hashes."""
        blocks = [
            {"block_hash": name, "tokens_hash": local}
            for local, name in zip(one.local, one.sequence, strict=True)
        ]
        return self._event(one.rank, {"stored": {"parent_hash": one.parent, "blocks": blocks}})

    def removing(self, one: Remove) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Blocks come by name."""
        return self._event(one.rank, {"removed": {"block_hashes": one.sequence}})

    def asking(self, local: list[int]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The scores are read, too."""
        return self._scores, (local,)

    def _scores(self, local: list[int]) -> Any:
        return self.tree.find_matches(local).scores


SUBJECTS: dict[str, Callable[[], Subject]] = {"callboard": Own, "dynamo": Dynamo}


def _packed(hashes: Iterable[int]) -> bytes:
    return array("Q", hashes).tobytes()


def resident_bytes() -> int:
    """Memory of this process."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def timed_s(calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> float:
    """CPU seconds of all threads: on a machine that does other things, too, the clock on the wall says little."""
    start = process_time()
    for _ in starmap(_call, calls):
        pass
    return process_time() - start


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def trial(subject: Subject, work: Workload) -> dict[str, float]:
    """Return blocks per second stored and removed, microseconds of a match, bytes of memory per different block."""
    stores = [subject.storing(one) for one in work.stores]
    holes = [subject.removing(one) for one in work.holes]
    asks = [subject.asking(one) for one in work.asks]
    removals = [subject.removing(one) for one in work.removals]
    stored, distinct = work.stored, work.distinct
    gone = sum(len(one.sequence) for one in work.removals)
    punched = len(work.holes)
    gc.collect()
    gc.freeze()  # what was prepared is not the index's to look through
    before = resident_bytes()
    values = {"apply": stored / timed_s(stores)}
    values["memory"] = max(0, resident_bytes() - before) / distinct
    if holes:
        values["punch"] = punched / timed_s(holes)
        values["memory-after"] = max(0, resident_bytes() - before) / distinct
    values["first-match"] = timed_s(asks) / len(asks) * 1e6
    values["match"] = min(timed_s(asks) for _ in range(5)) / len(asks) * 1e6
    values["remove"] = gone / timed_s(removals)
    return values


def main() -> None:
    """Read what to do from the command line, and print one object."""
    name, shape, blocks = sys.argv[1:]
    if name == "dynamo" and find_spec("dynamo") is None:
        print(json.dumps({"skipped": "not installed: pip install ai-dynamo-runtime"}))
        return
    work = workload(shape, int(blocks))
    if work.holes and name == "dynamo":
        print(json.dumps({"skipped": "it gives up all that follows a block that is removed"}))
        return
    print(json.dumps(trial(SUBJECTS[name](), work)), flush=True)


if __name__ == "__main__":
    main()
