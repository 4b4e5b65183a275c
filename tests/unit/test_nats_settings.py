"""Settings of NATS: every mistake at once, the first complete credentials win, and no secret is ever shown."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys

import nkeys
import pytest

from callboard.transports.errors import ConfigError, MissingExtra
from callboard.transports.nats_settings import VARIABLES, Credentials, NatsSettings
from callboard.transports.settings import NetworkSettings

SEED = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER).decode()
NETWORK = {"request_plane": "nats"}


def lines_of(**values):
    with pytest.raises(ConfigError) as caught:
        NatsSettings(**values)
    return list(caught.value.problems)


def lines_of_env(environ, base=None):
    with pytest.raises(ConfigError) as caught:
        NatsSettings.from_env(environ, base)
    return list(caught.value.problems)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.pem"
    path.write_text("something")
    return str(path)


def test_the_defaults_are_one_local_server_and_no_credentials():
    settings = NatsSettings()
    assert settings.servers == ("nats://localhost:4222",)
    assert (settings.credentials, settings.uses_tls, settings.open_servers()) == (None, False, [])
    assert (settings.startup_connect_timeout_s, settings.prefix) == (10.0, "callboard")


def test_every_variable_sets_its_field(tmp_path):
    paths = {}
    for variable in ("NATS_AUTH_CREDENTIALS_FILE", *(v for v in VARIABLES if v.endswith("_PATH"))):
        paths[variable] = str(tmp_path / variable)
        (tmp_path / variable).touch()
    environ = paths | {
        "NATS_SERVER": "nats://a:1, tls://b",
        "NATS_AUTH_USERNAME": "ann",
        "NATS_AUTH_PASSWORD": " a space ",
        "NATS_AUTH_TOKEN": "t",
        "NATS_AUTH_NKEY": SEED,
        "NATS_TLS_INSECURE": "Yes",
        "NATS_STARTUP_CONNECT_TIMEOUT_SECONDS": "2.5",
    }
    assert set(environ) == set(VARIABLES)
    settings = NatsSettings.from_env(environ)
    assert settings.servers == ("nats://a:1", "tls://b:4222")
    assert (settings.username, settings.password, settings.token) == ("ann", " a space ", "t")
    assert (settings.nkey, settings.tls_insecure, settings.startup_connect_timeout_s) == (SEED, True, 2.5)
    for variable, path in paths.items():
        assert getattr(settings, VARIABLES[variable]) == path


def test_an_empty_variable_sets_nothing():
    base = NatsSettings(token="t", prefix="p")
    assert NatsSettings.from_env(dict.fromkeys(VARIABLES, " "), base) == base


def test_the_first_complete_credentials_win(file):
    everything = {"username": "u", "password": "p", "token": "t", "nkey": SEED, "credentials_file": file}
    order = [Credentials.PASSWORD, Credentials.TOKEN, Credentials.NKEY, Credentials.FILE]
    for kind in order:
        assert NatsSettings(**everything).credentials is kind
        for name in kind.value:
            del everything[name]
    assert NatsSettings(**everything).credentials is None


def test_credentials_of_the_environment_put_those_of_another_kind_out_of_use():
    base = NatsSettings(username="file", password="file")
    settings = NatsSettings.from_env({"NATS_AUTH_TOKEN": "t"}, base)
    assert (settings.credentials, settings.username, settings.password) == (Credentials.TOKEN, "", "")
    settings = NatsSettings.from_env({"NATS_AUTH_PASSWORD": "env"}, base)
    assert (settings.username, settings.password) == ("file", "env")


@pytest.mark.parametrize("pair", [("username", "password"), ("tls_client_cert_path", "tls_client_key_path")])
def test_half_a_pair_is_an_error_that_names_the_other_half(file, pair):
    for given, missing in (pair, pair[::-1]):
        (line,) = lines_of(**{given: file})
        assert line.startswith(f"{given} is ")
        assert line.endswith(f"but {missing} is not set; set both or neither")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:4222", "does not begin with nats:// or tls://"),
        ("http://localhost", "does not begin with nats:// or tls://"),
        ("nats:localhost", "does not begin with nats:// or tls://"),
        ("nats://", "has no valid host"),
        ("nats://:4222", "has no valid host"),
        ("nats://a b", "has no valid host"),
        ("nats://host:port", "has no valid host and port"),
        ("nats://host:0", "has port 0"),
        ("nats://host:99999", "has no valid host and port"),
        ("nats://host/path", "has more than a host and a port"),
        ("nats://host?x=1", "has more than a host and a port"),
        ("nats://[::1", "has no valid host and port"),
    ],
)
def test_a_server_that_is_no_url_of_nats_is_refused_with_the_reason(url, why):
    (line,) = lines_of(servers=("nats://good:4222", url))
    assert "nats://host:port or tls://host:port" in line
    assert line.endswith(f"{url!r} {why}")


def test_a_list_without_servers_is_refused():
    assert "one or more of nats://host:port" in lines_of(servers=())[0]
    assert "one or more of nats://host:port" in lines_of_env({"NATS_SERVER": ",,"})[0]


def test_a_server_without_a_port_gets_that_of_nats():
    urls = ("nats://a", "tls://b/", "nats://u:p@c", "nats://[::1]", "nats://d:")
    assert NatsSettings(servers=urls).servers == (
        "nats://a:4222", "tls://b:4222", "nats://u:p@c:4222", "nats://[::1]:4222", "nats://d:4222",
    )  # fmt: skip


def broken(seed):
    return seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:]


@pytest.mark.parametrize(
    ("seed", "why"),
    [
        ("nonsense", "does not begin with SU"),
        (nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_ACCOUNT).decode(), "does not begin with SU"),
        (SEED[:-1], "it has 57"),
        (SEED.lower(), "does not begin with SU or has other characters"),
        (broken(SEED), "its checksum is wrong"),
    ],
)
def test_a_seed_is_judged_by_its_form_and_never_shown(seed, why):
    (line,) = lines_of(nkey=seed)
    assert line.startswith("nkey is set (a secret, not shown); it must be the seed of a user: SU")
    assert why in line
    assert seed not in line


def test_the_seed_that_is_accepted_is_one_that_the_package_reads():
    assert NatsSettings(nkey=SEED).credentials is Credentials.NKEY
    assert nkeys.from_seed(bytearray(SEED.encode())).public_key.startswith(b"U")


@pytest.mark.parametrize("name", ["username", "password", "token"])
@pytest.mark.parametrize("text", ["line\n", "tab\t", "\x00", " "])
def test_credentials_are_printable_text(name, text):
    line = next(line for line in lines_of(**{name: text}) if line.startswith(name))
    assert "printable text" in line
    assert name == "username" or repr(text) not in line


@pytest.mark.parametrize(
    "name", ["credentials_file", "tls_ca_cert_path", "tls_client_cert_path", "tls_client_key_path"]
)
def test_a_file_must_exist_be_a_file_and_be_readable(tmp_path, name):
    missing, locked = tmp_path / "missing", tmp_path / "locked"
    locked.touch(mode=0)
    cases = {missing: "there is no such file", tmp_path: "it is no file"}
    if os.getuid() != 0:
        cases[locked] = "permission is denied"
    for path, why in cases.items():
        lines = lines_of(**{name: str(path)})
        assert f"{name} is {str(path)!r}; it must be the path of a file that can be read; {why}" in lines


@pytest.mark.parametrize("prefix", ["", "a.b", "a b", ">", "*", "$SYS", "é"])
def test_a_prefix_is_one_token_of_a_subject(prefix):
    assert "one token of a subject" in lines_of(prefix=prefix)[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("servers", "nats://a"),
        ("servers", (5,)),
        ("token", 5),
        ("tls_insecure", 1),
        ("startup_connect_timeout_s", 0),
        ("startup_connect_timeout_s", "3"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_refused(name, value):
    (line,) = lines_of(**{name: value})
    assert line.startswith(f"{name} is ")
    assert "it must be" in line


NONSENSE = {
    "NATS_SERVER": ("nonsense", "nats://host:port"),
    "NATS_AUTH_USERNAME": ("non\tsense", "printable text"),
    "NATS_AUTH_PASSWORD": ("non\tsense", "printable text"),
    "NATS_AUTH_TOKEN": ("non\tsense", "printable text"),
    "NATS_AUTH_NKEY": ("nonsense", "the seed of a user: SU"),
    "NATS_AUTH_CREDENTIALS_FILE": ("/nonsense", "the path of a file that can be read"),
    "NATS_TLS_CA_CERT_PATH": ("/nonsense", "the path of a file that can be read"),
    "NATS_TLS_INSECURE": ("nonsense", "true or false"),
    "NATS_TLS_CLIENT_CERT_PATH": ("/nonsense", "the path of a file that can be read"),
    "NATS_TLS_CLIENT_KEY_PATH": ("/nonsense", "the path of a file that can be read"),
    "NATS_STARTUP_CONNECT_TIMEOUT_SECONDS": ("nonsense", "a number between 0.001 and"),
}
SECRET = {"NATS_AUTH_PASSWORD", "NATS_AUTH_TOKEN", "NATS_AUTH_NKEY"}


def test_every_variable_that_is_nonsense_gets_one_line_with_its_name_value_and_what_is_allowed():
    assert set(NONSENSE) == set(VARIABLES)
    lines = lines_of_env({variable: value for variable, (value, _) in NONSENSE.items()})
    assert len(lines) == len(NONSENSE)
    for variable, (value, allowed) in NONSENSE.items():
        (line,) = (line for line in lines if line.startswith(variable))
        assert allowed in line
        assert ("set (a secret, not shown)" if variable in SECRET else repr(value)) in line


def test_problems_of_nats_and_of_the_rest_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        NetworkSettings.from_env({"DYN_TCP_RPC_PORT": "x", "NATS_SERVER": "x", "NATS_AUTH_NKEY": "x"})
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError) as caught:
        NetworkSettings(port=-1, nats={"sevrers": [], "token": "\n", "prefix": "a.b"})
    lines = caught.value.problems
    assert any('nats.unknown setting "sevrers"; did you mean "servers"?' in line for line in lines)
    assert {line.split()[0] for line in lines} >= {"nats.token", "nats.prefix", "port"}


def test_no_secret_is_in_any_text():
    secret = "hush-hush"
    settings = NetworkSettings(
        nats=NatsSettings(
            servers=(f"nats://ann:{secret}@db", f"tls://{secret}@db"),
            username="ann",
            password=secret,
            token=secret,
        )
    )
    for text in (repr(settings), str(settings), repr(settings.nats), f"{dataclasses.replace(settings)}"):
        assert secret not in text
        assert "ann:***@db:4222" in text
    (line,) = lines_of(servers=(f"nats://ann:{secret}@db/path",))
    assert secret not in line
    (line,) = lines_of(servers=(f"http://{secret}@db",))
    assert secret not in line


def test_a_password_with_a_comma_in_a_url_is_not_shown_either():
    (line,) = lines_of_env({"NATS_SERVER": "nats://ann:hush,hush@db:4222"})
    assert "hush" not in line
    assert "NATS_AUTH_PASSWORD" in line


def test_settings_survive_pickle_replace_and_json(file):
    settings = NetworkSettings(
        nats=NatsSettings(servers=("tls://a:1", "tls://b:2"), token="t", tls_ca_cert_path=file, prefix="p"),
        port=5,
    )
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert dataclasses.replace(settings, port=6).nats == settings.nats
    assert NetworkSettings(**json.loads(json.dumps(dataclasses.asdict(settings)))) == settings
    assert (
        NetworkSettings(**json.loads(json.dumps(dataclasses.asdict(NetworkSettings())))) == NetworkSettings()
    )


@pytest.mark.parametrize("server", ["nats://10.1.2.3:4222", "nats://db.example:4222", "nats://0.0.0.0"])
def test_a_server_that_others_can_reach_needs_tls_or_credentials_or_insecure(file, server):
    with pytest.raises(
        ConfigError, match=r"without TLS and without credentials.*NATS_AUTH_\*.*insecure = true"
    ):
        NetworkSettings(**NETWORK, nats=NatsSettings(servers=("nats://localhost", server)))
    with pytest.raises(ConfigError, match=r"^NATS_SERVER: nats\.servers is .*without credentials"):
        NetworkSettings.from_env({"NATS_SERVER": server, "DYN_REQUEST_PLANE": "nats"})
    for more in (
        {"token": "t"},
        {"username": "u", "password": "p"},
        {"nkey": SEED},
        {"credentials_file": file},
        {"tls_ca_cert_path": file},
        {"tls_insecure": True},
    ):
        assert NetworkSettings(**NETWORK, nats=NatsSettings(servers=(server,), **more))
    assert NetworkSettings(**NETWORK, nats=NatsSettings(servers=(server.replace("//", "//u:p@"),)))
    assert NetworkSettings(**NETWORK, nats=NatsSettings(servers=(server.replace("nats:", "tls:"),)))
    assert NetworkSettings(**NETWORK, nats=NatsSettings(servers=(server,)), insecure=True)
    assert NetworkSettings(request_plane="tcp", nats=NatsSettings(servers=(server,)))  # nothing goes there


def test_settings_of_tls_go_with_any_server(file):
    assert not NatsSettings(servers=("nats://a",)).uses_tls
    assert NatsSettings(servers=("nats://a",), tls_ca_cert_path=file).uses_tls
    assert NatsSettings(servers=("nats://a",), tls_client_cert_path=file, tls_client_key_path=file).uses_tls
    assert NatsSettings(servers=("nats://a", "tls://b")).uses_tls


def test_keys_without_the_package_name_the_extra(file):
    """In an interpreter that does not find the package."""
    code = f"""
import sys
sys.modules["nkeys"] = None
from callboard.transports.nats_settings import NatsSettings
NatsSettings(token="t").require_extras()
for more in ({{"nkey": {SEED!r}}}, {{"credentials_file": {file!r}}}):
    try:
        NatsSettings(**more).require_extras()
    except ImportError as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = f"MissingExtra {MissingExtra('nats', 'secure', 'nkeys')}"
    assert done.stdout.splitlines() == [expected, expected]
    assert expected.endswith("needs nkeys, which is not installed; pip install 'callboard[secure]'")
    assert NatsSettings(nkey=SEED).require_extras() is None
