"""Stop strings, for engines that do not know them."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Looks for stop strings in a text that comes in pieces, and holds back what may become one.

    >>> scanner = StopScanner(["END"])
    >>> scanner.feed("one E"), scanner.feed("ND two"), scanner.stopped
    ('one ', '', True)
    """

    __slots__ = ("_held", "_stops", "stopped")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False
        """True once a stop string was met; nothing may be fed any more."""

    def feed(self, piece: str) -> str:
        """Take a piece and return the text that can be shown."""
        text = self._held + piece
        at = min((found for stop in self._stops if (found := text.find(stop)) >= 0), default=-1)
        if at >= 0:
            self.stopped = True
            self._held = ""
            return text[:at]
        keep = self._open(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back; for the end of the text."""
        held, self._held = self._held, ""
        return held

    def _open(self, text: str) -> int:
        """How many characters at the end of ``text`` are the beginning of a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
