"""The nodes of the conformance suite, for what only one plane promises."""

from callboard.testing.conformance.fixtures import nodes, remote

__all__ = ["nodes", "remote"]
