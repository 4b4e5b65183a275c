"""Decisions read from bytes, so that one builder serves a fuzzer that is guided by coverage, and hypothesis."""


class Source:
    """Answers questions from ``data``, one after the other; zeros when nothing is left, which end every recursion."""

    def __init__(self, data):
        self._data = data
        self._at = 0

    def __len__(self):
        return len(self._data) - self._at

    def take(self, most):
        """The next bytes, ``most`` of them at most."""
        taken = self._data[self._at : self._at + most]
        self._at += len(taken)
        return taken

    def rest(self):
        return self.take(len(self))

    def number(self, size=1):
        return int.from_bytes(self.take(size), "big")

    def below(self, end):
        """A number from 0 to ``end`` - 1."""
        return self.number() % end

    def one_in(self, chances):
        """True seldom, and never when nothing is left."""
        return self.number() % chances == chances - 1

    def pick(self, options):
        return options[self.below(len(options))]

    def text(self):
        return self.take(self.below(12)).decode("latin-1")

    def wild(self):
        """An integer that is likely to hurt."""
        kind = self.below(8)
        if kind < 4:
            return self.below(16)
        near = self.pick((7, 8, 15, 16, 31, 32, 53, 61, 62, 63, 64))
        value = (1 << near) + self.below(5) - 2
        return max(-(2**63), min(2**64 - 1, -value if kind == 7 else value))
