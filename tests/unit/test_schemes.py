"""Planes are found by scheme: built in, or brought by an entry point."""

import sys
from importlib.metadata import EntryPoint

import pytest

from callboard.transports import named_planes, registry
from callboard.transports.base import Capabilities
from callboard.transports.errors import BadPlane, MissingExtra, UnknownScheme
from callboard.transports.registry import get_plane
from callboard.transports.schemes import PLANES, known_schemes, unknown_plane
from callboard.transports.settings import NetworkSettings


class CarrierPigeon:
    """A plane of a third party."""

    capabilities = Capabilities(
        scheme="pigeon", summary="", between_processes=True, between_hosts=True, notices_death=False
    )


@pytest.fixture
def brings(monkeypatch):
    """Lets a package bring planes by entry points."""

    def bring(**planes):
        points = [EntryPoint(name, value, PLANES.group) for name, value in planes.items()]
        monkeypatch.setattr(
            named_planes, "entry_points", lambda group: [p for p in points if p.group == group]
        )
        vars(PLANES).pop("_added", None)

    yield bring
    monkeypatch.undo()
    vars(PLANES).pop("_added", None)


@pytest.mark.parametrize("scheme", ["memory", "ipc", "tcp"])
def test_a_built_in_plane_is_found_by_its_scheme(scheme):
    assert get_plane(scheme).capabilities.scheme == scheme
    assert scheme in known_schemes()


def test_an_unknown_scheme_names_the_known_ones_and_the_nearest():
    with pytest.raises(
        UnknownScheme, match=r'"?tcq"?.* known: ipc, memory, nats, tcp; did you mean "tcp"\?'
    ) as caught:
        get_plane("tcq")
    assert caught.value.scheme == "tcq"
    with pytest.raises(UnknownScheme) as caught:
        get_plane("zzzz")
    assert "did you mean" not in str(caught.value)


def test_a_plane_of_a_third_party_is_found_and_valid_in_the_settings(brings, monkeypatch):
    monkeypatch.setitem(sys.modules, "pigeon_post", sys.modules[__name__])
    brings(pigeon="pigeon_post:CarrierPigeon [extra]")
    assert isinstance(get_plane("pigeon"), CarrierPigeon)
    assert "pigeon" in known_schemes()
    assert NetworkSettings(request_plane="pigeon").request_plane == "pigeon"
    assert 'did you mean "pigeon"' in unknown_plane("pigoen")


def test_a_plane_whose_driver_is_not_installed_names_the_extra(brings, monkeypatch):
    brings(pigeon="a_driver_that_nobody_has:Plane")
    monkeypatch.setitem(registry._EXTRAS, "pigeon", "birds")
    with pytest.raises(MissingExtra, match=r"a_driver_that_nobody_has.*'callboard\[birds\]'"):
        get_plane("pigeon")


def test_a_plane_of_a_third_party_that_cannot_be_imported_says_so_itself(brings):
    brings(pigeon="a_driver_that_nobody_has:Plane")
    with pytest.raises(ImportError, match="a_driver_that_nobody_has"):
        get_plane("pigeon")


class Nameless:
    """No plane."""


class Broken:
    def __init__(self):
        raise RuntimeError("no device")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Nameless", "has no attribute 'capabilities'"),
        ("Broken", "RuntimeError: no device"),
        ("None", "None"),
    ],
)
def test_what_is_registered_and_is_no_plane_names_itself_and_what_is_wrong(brings, monkeypatch, name, why):
    monkeypatch.setitem(sys.modules, "pigeon_post", sys.modules[__name__])
    brings(pigeon=f"pigeon_post:{name}")
    with pytest.raises(
        BadPlane, match=f"the pigeon plane .pigeon_post:{name}, named by an entry point.*{why}"
    ):
        get_plane("pigeon")


def test_a_plane_that_calls_itself_otherwise_is_refused(brings, monkeypatch):
    monkeypatch.setitem(sys.modules, "pigeon_post", sys.modules[__name__])
    brings(dove="pigeon_post:CarrierPigeon")
    with pytest.raises(BadPlane, match="calls itself 'pigeon'"):
        get_plane("dove")


def test_nobody_takes_the_place_of_a_built_in_plane(brings, monkeypatch):
    monkeypatch.setitem(sys.modules, "pigeon_post", sys.modules[__name__])
    brings(tcp="pigeon_post:CarrierPigeon")
    assert type(get_plane("tcp")).__name__ == "TcpPlane"


def test_knowing_a_plane_costs_no_import():
    import subprocess

    code = (
        "import sys; from callboard.transports.schemes import known_schemes; known_schemes(); "
        "sys.exit('zmq' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
