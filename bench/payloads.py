"""What is sent: distinct dicts of about 100 bytes, so that no codec profits from one object sent again and again."""

from __future__ import annotations

from typing import Any

MB = 1_000_000

MESSAGES: list[dict[str, Any]] = [
    {
        "id": 100_000 + number,
        "op": "update",
        "user": f"user{number}",
        "items": [number, number + 1, number + 2],
        "note": f"a note of some thirty chars {number}"[:28],
    }
    for number in range(4096)
]
