"""How a config file says how processes are reached: tables, environment and flags together, secrets unseen."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from callboard.supervisor.config import parse
from callboard.supervisor.schema import config_schema
from callboard.supervisor.spec import Config, EventPlane
from callboard.transports.errors import BadPlane, ConfigError
from callboard.transports.events import names
from callboard.transports.events.base import EventPlaneContext
from callboard.transports.events.registry import make_event_plane
from callboard.transports.nats_settings import Credentials, NatsSettings, plain
from callboard.transports.settings import NetworkSettings

PLAIN = '[actor.a]\nclass = "callboard:Actor"\n'
Parse = Callable[..., Config]
Problems = Callable[..., list[str]]


@pytest.fixture
def config_of(tmp_path: Path) -> Parse:
    def run(text: str, **options: object) -> Config:
        return parse(text, file=tmp_path / "c.toml", **{"environ": {}, **options})  # type: ignore[arg-type]

    return run


@pytest.fixture
def problems_of(config_of: Parse) -> Problems:
    def run(text: str, **options: object) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            config_of(text, **options)
        return [line.rpartition("c.toml:")[2].lstrip() for line in caught.value.problems]

    return run


def test_every_setting_of_nats_can_stand_in_the_file(config_of: Parse, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem", "user.creds"):
        (tmp_path / "keys" / name).touch()
    nats = config_of(
        f"""{PLAIN}
        [network.nats]
        servers = ["nats://a", "tls://b:5000"]
        username = "ann"
        password = "secret"
        token = "t"
        nkey = ""
        credentials_file = "keys/user.creds"
        tls_ca_cert_path = "keys/ca.pem"
        tls_insecure = true
        tls_client_cert_path = "keys/cert.pem"
        tls_client_key_path = "{tmp_path}/keys/key.pem"
        startup_connect_timeout_s = 3
        prefix = "mine"
        """
    ).network.nats
    assert nats.servers == ("nats://a:4222", "tls://b:5000")
    assert (nats.username, nats.password, nats.token) == ("ann", "secret", "t")
    assert nats.tls_ca_cert_path == str(tmp_path / "keys" / "ca.pem"), "relative to the file"
    assert nats.credentials_file == str(tmp_path / "keys" / "user.creds")
    assert nats.tls_client_key_path == str(tmp_path / "keys" / "key.pem")
    assert (nats.tls_insecure, nats.startup_connect_timeout_s, nats.prefix) == (True, 3.0, "mine")
    unset = {name for name, value in plain(nats).items() if value == getattr(NatsSettings(), name)}
    assert unset == {"nkey"}


def test_a_list_of_servers_may_be_one_string(config_of: Parse) -> None:
    text = f'{PLAIN}[network.nats]\nservers = "nats://a, nats://b"\n'
    assert config_of(text).network.nats.servers == ("nats://a:4222", "nats://b:4222")


def test_mistakes_of_nats_are_named_at_their_lines_and_secrets_are_not_shown(problems_of: Problems) -> None:
    problems = problems_of(
        f"""{PLAIN}
[network.nats]
server = "nats://a"
servers = ["http://a"]
tokken = "x"
password = 12345678
token = "hush\\thush"
nkey = "hush"
tls_insecure = "yes"
startup_connect_timeout_s = 0
prefix = "a.b"
tls_ca_cert_path = "no/such.pem"
"""
    )
    expected = [
        ("5 ", 'network.nats: unknown key "server"; did you mean "servers"?'),
        ("6 ", "network.nats.servers: servers is 'http://a'; it must be one or more of nats://host:port"),
        ("7 ", 'network.nats: unknown key "tokken"; did you mean "token"?'),
        ("8 ", "network.nats.password: takes a string (a secret, not shown)"),
        ("9 ", "network.nats.token: token is set (a secret, not shown); it must be printable text"),
        ("10", "network.nats.nkey: nkey is set (a secret, not shown); it must be the seed of a user"),
        ("11", 'network.nats.tls_insecure: takes true or false, not "yes"'),
        (
            "12",
            "network.nats.startup_connect_timeout_s: startup_connect_timeout_s is 0.0; it must be a number",
        ),
        ("13", "network.nats.prefix: prefix is 'a.b'; it must be letters"),
        ("14", "network.nats.tls_ca_cert_path: tls_ca_cert_path is"),
    ]
    assert len(problems) == len(expected), "\n".join(problems)
    for problem, (line, what) in zip(problems, expected, strict=True):
        assert problem.startswith(line), (problem, line)
        assert what in problem
    assert "hush" not in "".join(problems)
    assert "12345678" not in "".join(problems)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[network]\nnats = 3", "network.nats: takes a table, not 3"),
        ("[network]\nnast = {}", 'unknown key "nast"; did you mean "nats"?'),
        ('[network.nats]\nusername = "u"', "username is 'u', but password is not set"),
    ],
)
def test_a_mistake_of_the_table_is_named(problems_of: Problems, text: str, expected: str) -> None:
    (problem,) = problems_of(f"{PLAIN}{text}\n")
    assert expected in problem


def test_the_environment_goes_before_the_file_and_may_complete_it(config_of: Parse) -> None:
    text = f'{PLAIN}[network.nats]\nservers = ["nats://file"]\nusername = "file"\n'
    environ = {"NATS_AUTH_PASSWORD": "env", "NATS_SERVER": "nats://env"}
    nats = config_of(text, environ=environ).network.nats
    assert (nats.servers, nats.username, nats.password) == (("nats://env:4222",), "file", "env")
    nats = config_of(text, environ={"NATS_AUTH_TOKEN": "t"}).network.nats
    assert (nats.credentials, nats.username) == (Credentials.TOKEN, "")


def test_servers_of_the_file_may_have_their_credentials_in_the_environment(
    config_of: Parse, problems_of: Problems
) -> None:
    text = f'request_plane = "nats"\n{PLAIN}[network.nats]\nservers = ["nats://db.example"]\n'
    (problem,) = problems_of(text)
    assert problem.startswith("5 ")
    assert (
        "network.nats.servers: nats.servers is 'nats://db.example:4222', which other machines can reach"
        in problem
    )
    assert config_of(text, environ={"NATS_AUTH_TOKEN": "t"}).network.request_plane == "nats"
    assert config_of(text, plane="tcp").network.request_plane == "tcp"
    (problem,) = problems_of(PLAIN, plane="nats", environ={"NATS_SERVER": "nats://db.example"})
    assert problem.startswith("environment: NATS_SERVER: nats.servers is")


def test_a_mistake_in_the_file_is_reported_although_the_environment_overrides_it(
    problems_of: Problems,
) -> None:
    (problem,) = problems_of(f"{PLAIN}[network]\nport = 99999\n", environ={"DYN_TCP_RPC_PORT": "5"})
    assert "network.port: port is 99999" in problem


def test_a_fixed_port_needs_one_for_each_process(config_of: Parse, problems_of: Problems) -> None:
    four = f"{PLAIN}replicas = 4\n[network]\nport = 65533\n"
    (problem,) = problems_of(four)
    assert problem.startswith(
        "5  network.port: network.port (DYN_TCP_RPC_PORT) is 65533, and 4 processes listen on it"
    )
    assert "up to 65536" in problem
    assert "set it to 65532 or lower, or to 0" in problem
    (problem,) = problems_of(four, environ={"DYN_TCP_RPC_PORT": "65535"})
    assert problem.startswith("environment: network.port (DYN_TCP_RPC_PORT) is 65535")
    assert config_of(four, environ={"DYN_TCP_RPC_PORT": "65532"}).network.port == 65532
    assert config_of(four, plane="nats").network.port == 65533, "nothing is bound on it"


def test_one_mistake_in_the_file_makes_no_other(problems_of: Problems) -> None:
    text = f'{PLAIN}[network]\nport = 99999\nhost = "0.0.0.0"\ninsecure = true\n'
    (problem,) = problems_of(text, environ={"DYN_TCP_POOL_SIZE": "3"})
    assert "network.port" in problem


def test_the_event_plane_comes_from_the_environment_the_file_or_the_default(
    config_of: Parse, problems_of: Problems
) -> None:
    text = f'event_plane = "none"\n{PLAIN}'
    assert config_of(PLAIN).event_plane == EventPlane.ZMQ
    assert config_of(text).event_plane == EventPlane.NONE
    environ = {"DYN_EVENT_PLANE": " JetStream "}
    assert config_of(text, environ=environ).event_plane == EventPlane.JETSTREAM
    assert config_of(text, environ=environ, event_plane="NATS").event_plane == EventPlane.NATS
    (problem,) = problems_of(text, event_plane="smoke")
    assert problem == "--event-plane: invalid event plane 'smoke'; valid are: zmq, nats, jetstream, none"


def test_an_invalid_event_plane_in_the_environment_warns_and_falls_back_to_zmq(
    config_of: Parse, problems_of: Problems
) -> None:
    text, environ = f'event_plane = "none"\n{PLAIN}', {"DYN_EVENT_PLANE": "zqm"}
    what = "DYN_EVENT_PLANE: invalid event plane 'zqm'; valid are: zmq, nats, jetstream, none; did you mean \"zmq\"?"
    with pytest.warns(RuntimeWarning) as said:
        assert config_of(text, environ=environ).event_plane == EventPlane.ZMQ
    assert [str(warning.message) for warning in said] == [f"{what}; falling back to zmq"]
    assert problems_of(f"{text}[network]\nstrict_env = true\n", environ=environ) == [f"environment: {what}"]


def test_settings_of_the_environment_have_its_event_plane() -> None:
    assert NetworkSettings.from_env({}).event_plane == "zmq"
    assert NetworkSettings.from_env({"DYN_EVENT_PLANE": "Nats"}).event_plane == "nats"
    with pytest.warns(RuntimeWarning, match="invalid event plane 'memory'.*falling back to zmq"):
        assert NetworkSettings.from_env({"DYN_EVENT_PLANE": "memory"}).event_plane == "zmq"
    with pytest.raises(ConfigError, match="DYN_EVENT_PLANE: invalid event plane 'smoke'"):
        NetworkSettings.from_env({"DYN_EVENT_PLANE": "smoke"}, strict=True)


def test_a_plane_of_the_environment_that_stays_in_one_process_is_refused(problems_of: Problems) -> None:
    (problem,) = problems_of(PLAIN, environ={"DYN_REQUEST_PLANE": "memory"})
    assert problem.startswith("environment: DYN_REQUEST_PLANE: the memory plane cannot connect processes")


def test_the_schema_knows_every_setting_of_nats() -> None:
    network = config_schema()["properties"]["network"]
    assert set(network["properties"]["nats"]["properties"]) == set(plain(NatsSettings()))
    assert network["properties"]["nats"]["additionalProperties"] is False


def test_paths_of_the_environment_are_relative_to_the_working_directory(
    config_of: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.pem").touch()
    monkeypatch.chdir(tmp_path)
    nats = config_of(PLAIN, environ={"NATS_TLS_CA_CERT_PATH": "here.pem"}).network.nats
    assert nats.tls_ca_cert_path == os.path.abspath("here.pem")


def test_the_directory_of_sockets_that_errors_tell_to_set_can_be_set(
    config_of: Parse, tmp_path: Path
) -> None:
    config = config_of(f'{PLAIN}[network]\nipc_directory = "sockets"\n')
    assert config.network.ipc_directory == str(tmp_path / "sockets")


def test_an_event_plane_that_a_package_adds_can_be_named(
    config_of: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(names.PLANES), "_added", {"mine": "nowhere.at_all:Mine"})
    assert config_of(PLAIN, event_plane="mine").event_plane == "mine"
    assert config_of(PLAIN, environ={"DYN_EVENT_PLANE": "Mine"}).event_plane == "mine"
    context = EventPlaneContext(namespace="n", node="n", settings=NetworkSettings(), directory="")
    with pytest.raises(BadPlane, match=r"mine event plane .*group callboard\.event_planes") as caught:
        make_event_plane("mine", context)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
