"""Every test of the suite runs on every plane that was asked for and offers what the test needs."""

from __future__ import annotations

from .actors.pairs import LOCAL
from .fixtures import faulty, nodes, pair, remote
from .selection import offering, selected

__all__ = ["faulty", "nodes", "pair", "remote"]

FIXTURES = {"nodes": (), "remote": (), "faulty": (), "pair": (LOCAL,)}
"""Fixtures that are made for a plane, and what each is made for besides."""


def pytest_configure(config):
    selected(config)


def pytest_generate_tests(metafunc):
    marked = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    for name, more in FIXTURES.items():
        if name in metafunc.fixturenames and name not in marked:
            schemes = offering(metafunc.config, metafunc.definition)
            metafunc.parametrize(name, [*more, *schemes], indirect=True, scope="function")


def pytest_report_header(config):
    return [f"plane {scheme}: {rig.summary(scheme)}" for scheme, rig in selected(config).items()]
