"""What the conformance suite damages connections of `own_plane` with; for its tests only, so in a file of its own.

The suite needs pytest, which a process that uses the plane has no business to import.
"""

from __future__ import annotations

from callboard.testing.conformance.rigs import StreamRig


class OwnRig(StreamRig):
    """Lets the suite cut, delay and silence connections of this plane."""

    scheme = "own"
