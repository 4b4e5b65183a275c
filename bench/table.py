"""All that can be measured: importing this enters every case into the table."""

from __future__ import annotations

from . import flood
from .cases import CASES

__all__ = ["CASES", "flood"]
