"""A replay as scripts and commands ask for it: its beginning may be said in words."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

from callboard.actors.replay import Host, Replay
from callboard.actors.replay import replay as replay_from
from callboard.transports.errors import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


async def replay(
    node: Host, component: str, *, since: datetime | float | str | None = None, **options: Any
) -> Replay:
    """Do what `callboard.actors.replay.replay` does; ``since`` may be what `moment` takes. Raises `ConfigError`."""
    start = None if since is None else moment(since, time.time())
    return await replay_from(node, component, since=start, **options)


def moment(since: datetime | float | str, now_s: float) -> float:
    """Return the time that is meant, in seconds since 1970. Raises `ConfigError`.

    >>> moment("2h", 10_000.0), moment("1970-01-01T01:00:00+00:00", 0), moment(5, 0)
    (2800.0, 3600.0, 5.0)
    """
    if isinstance(since, int | float) and not isinstance(since, bool):
        return float(since)
    try:
        if isinstance(since, datetime):
            return since.timestamp()
        if isinstance(since, str):
            if ago := _AGO.fullmatch(since.strip()):
                return now_s - float(ago[1]) * UNITS[ago[2]]
            return datetime.fromisoformat(since.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    raise ConfigError(
        f"since is {since!r}; it takes a time such as 2026-01-31T12:00:00+01:00, or 30s, 10m, 2h, 1d ago"
        f"{'' if isinstance(since, str) else ', or a datetime, or seconds since 1970'}"
    )
