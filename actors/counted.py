"""What one process counts, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .cell import Cell
from .durable import Durables
from .events import NodeEvents
from .first_items import FirstItems
from .pending import PendingTable
from .stream import Reader


class Counting(Protocol):
    """The parts of a node that count."""

    id: str
    pending: PendingTable
    readers: dict[int, Reader]
    first_items: FirstItems
    dropped_tells: int
    durables: Durables
    events: NodeEvents


def counted(node: Counting, cells: Mapping[str, Cell], network: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that a node counts."""
    return {
        "node": node.id,
        "actors": {name: cell.statistics() for name, cell in cells.items()},
        "open_asks": len(node.pending),
        "open_streams": len(node.readers),
        "first_items": node.first_items.statistics(),
        "late_answers": node.pending.late,
        "dropped_tells": node.dropped_tells,
        "durable": node.durables.statistics(),
        "events": node.events.statistics(),
        "network": network,
    }
