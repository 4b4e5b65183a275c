"""docs/migration.md: its variables are those that are read, and its way from one plane to the other can be gone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from callboard.supervisor.config import NAMESPACE_VARIABLE
from callboard.supervisor.config_network import EVENT_PLANE_VARIABLE
from callboard.testing.cluster import Cluster
from callboard.testing.nats_session import NatsForTest
from callboard.transports import nats_settings, settings

from .terminal import callboard, finished, up

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
CONFIG = """
namespace = "moving"
[actor.echo]
class = "actors_for_tests:Echo"
replicas = 2
[process.e]
actors = ["echo"]
count = 2
"""


def test_the_page_names_every_variable_that_is_read_and_no_other() -> None:
    read = {"DYN_REQUEST_PLANE", EVENT_PLANE_VARIABLE, NAMESPACE_VARIABLE}
    read |= {*settings.VARIABLES, *nats_settings.VARIABLES}
    named = set(re.findall(r"\b(?:DYN|NATS)_[A-Z_]+[A-Z]\b", PAGE.partition("## From NVIDIA Dynamo")[2]))
    assert named == {name for name in read if not name.startswith("CALLBOARD_")}  # those are not Dynamo's


def test_the_defaults_on_the_page_are_those_that_hold() -> None:
    row = re.compile(r"^\| `((?:DYN|NATS)\w+)` \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
    shown = dict(row.findall(PAGE))
    assert len(shown) > 10
    for variables, values in (
        (settings.VARIABLES, settings.NetworkSettings()),
        (nats_settings.VARIABLES, nats_settings.NatsSettings()),
    ):
        for variable in variables.keys() & shown.keys():
            value = getattr(values, variables[variable])
            if type(value) in (int, float) and value:
                number = value // 1024**2 if value >= 1024**2 else value
                assert re.match(rf"{number:g} ", shown[variable]), variable


@pytest.mark.parametrize("first", ["tcp", "nats"])
async def test_a_system_goes_from_one_plane_to_the_other_as_the_page_says(
    cluster: Cluster, nats_server: NatsForTest, tmp_path: Path, first: str
) -> None:
    path = tmp_path / "moving.toml"
    path.write_text(CONFIG)
    environment = {**os.environ, **nats_server.environment()}
    second = {"tcp": "nats", "nats": "tcp"}[first]
    answers = []
    for plane in (first, second):
        assert (await callboard("doctor", "--plane", plane, path, env=environment)).code == 0
        process, status = await up("--plane", plane, path, env=environment)
        assert status["plane"] == plane
        answers.append(await callboard("call", "echo.hello", '["you"]', env=environment))
        assert (await callboard("stop", env=environment)).code == 0
        assert (await finished(process)).code == 0
    assert answers[0] == answers[1]
    assert answers[0].out == '"hello you"\n'
