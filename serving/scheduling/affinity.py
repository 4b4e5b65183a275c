"""Sessions stay where they were. Pure; the time is given."""

from __future__ import annotations

from .demand import Rank


class SessionAffinity:
    """Where each session was last; the silent ones, and the oldest beyond the limit, are forgotten."""

    __slots__ = ("_max", "_sessions", "_ttl_s", "forgotten")

    def __init__(self, ttl_s: float, max_sessions: int) -> None:
        self._ttl_s, self._max = ttl_s, max_sessions
        self._sessions: dict[str, tuple[Rank, float]] = {}  # in the order of their last use
        self.forgotten = 0

    def __repr__(self) -> str:
        return f"<SessionAffinity {len(self._sessions)} sessions>"

    def __len__(self) -> int:
        return len(self._sessions)

    def where(self, session: str, now_s: float) -> Rank | None:
        """Return where a session was, or None."""
        found = self._sessions.get(session)
        return found[0] if found is not None and now_s - found[1] <= self._ttl_s else None

    def bind(self, session: str, rank: Rank, now_s: float) -> None:
        """A request of the session goes there."""
        sessions = self._sessions
        sessions.pop(session, None)
        sessions[session] = (rank, now_s)
        while sessions:
            oldest = next(iter(sessions))
            if len(sessions) <= self._max and now_s - sessions[oldest][1] <= self._ttl_s:
                break
            del sessions[oldest]
            self.forgotten += 1

    def items(self, now_s: float) -> list[tuple[str, Rank]]:
        """Return the sessions that are not forgotten, and where they are."""
        return [(key, rank) for key, (rank, at_s) in self._sessions.items() if now_s - at_s <= self._ttl_s]
