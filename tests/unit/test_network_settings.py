"""Network settings are judged at once and together; the environment is named where it is wrong."""

import dataclasses
import math

import pytest

from callboard.transports.errors import ConfigError
from callboard.transports.nats_settings import NatsSettings
from callboard.transports.settings import MIB, NetworkSettings

FIELDS = {field.name: field.default for field in dataclasses.fields(NetworkSettings)}
RANGES = {
    "port": (0, 65535),
    "max_message_bytes": (64 * 1024, 1024**4),
    "shrink_message_bytes": (0, 32 * MIB),
    "request_timeout_s": (0.001, 1e6),
    "pool_size": (1, 1_000_000),
    "connect_timeout_s": (0.001, 1e6),
    "shared_memory_bytes": (0, 1024**4),
    "channel_buffer": (1, 1_000_000),
    "linger_s": (0, 1e6),
    "heartbeat_interval_s": (0.01, 1.5),
    "heartbeat_timeout_s": (2.0, 1e6),  # 0.02 at the shortest interval
    "idle_close_s": (0.001, 1e6),
}
"""Least and most of every number, the other fields being at their defaults."""
VARIABLES = {
    "DYN_TCP_RPC_HOST": ("0.0.0.0", "bind 127.0.0.1, or set insecure = true"),
    "DYN_TCP_RPC_PORT": ("70000", "between 0 and 65,535"),
    "DYN_TCP_MAX_MESSAGE_SIZE": ("12", "between 65,536 and"),
    "DYN_TCP_SHRINK_MESSAGE_SIZE": ("-1", "between 0 and"),
    "CALLBOARD_SHARED_MEMORY_BYTES": ("-1", "between 0 and"),
    "DYN_TCP_REQUEST_TIMEOUT": ("0", "between 0.001 and"),
    "DYN_TCP_POOL_SIZE": ("0", "between 1 and"),
    "DYN_TCP_CONNECT_TIMEOUT": ("inf", "between 0.001 and"),
    "DYN_TCP_CHANNEL_BUFFER": ("0", "between 1 and"),
}
"""Each variable with a wrong value and what the error says is allowed."""


def lines_of(error):
    return error.value.problems


def test_the_defaults_are_those_of_the_specification():
    settings = NetworkSettings()
    assert settings.request_plane == "tcp"
    assert (settings.host, settings.port, settings.insecure) == ("127.0.0.1", 0, False)
    assert (settings.max_message_bytes, settings.shrink_message_bytes) == (32 * MIB, 8 * MIB)
    assert (settings.request_timeout_s, settings.connect_timeout_s) == (10.0, 3.0)
    assert (settings.pool_size, settings.channel_buffer) == (50, 100)


def test_every_number_has_a_range_and_its_ends_are_in_it():
    numbers = {name for name, default in FIELDS.items() if type(default) in (int, float)}
    assert set(RANGES) == numbers
    for name, ends in RANGES.items():
        for value in ends:
            assert getattr(NetworkSettings(**{name: value}), name) == value


@pytest.mark.parametrize("name", RANGES)
def test_a_number_outside_its_range_is_refused_with_value_and_range(name):
    least, most = RANGES[name]
    wrong = [least - 2, most * 2 + 10_000_000_000_000]
    if isinstance(FIELDS[name], float):
        wrong += [math.nan, math.inf, -math.inf]
    for value in wrong:
        with pytest.raises(ConfigError) as caught:
            NetworkSettings(**{name: value})
        (line,) = lines_of(caught)
        assert line.startswith(f"{name} is {value!r}; it must be a")
        assert "between" in line


@pytest.mark.parametrize("name", FIELDS)
def test_a_value_of_another_type_is_refused(name):
    wrong = {
        bool: [0, "yes"],
        int: [True, 1.5, "5"],
        float: [False, "1.0", None],
        str: [b"x", 5, True],
        NatsSettings: [5, None, "x"],
    }
    for value in wrong[type(FIELDS[name])]:
        with pytest.raises(ConfigError, match=f"{name} is {value!r}; it must be"):
            NetworkSettings(**{name: value})


def test_seconds_may_be_whole_numbers():
    assert NetworkSettings(connect_timeout_s=5).connect_timeout_s == 5


def test_all_mistakes_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        NetworkSettings(port=-1, pool_size="many", linger_s=-2, host="0.0.0.0", request_plane="tpc")
    assert [line.split()[0] for line in lines_of(caught)] == [
        "port",
        "pool_size",
        "linger_s",
        "invalid",
        "host",
    ]


def test_memory_goes_back_below_the_limit_of_a_message():
    with pytest.raises(ConfigError, match=r"must not exceed max_message_bytes \(1048576\)"):
        NetworkSettings(max_message_bytes=MIB, shrink_message_bytes=MIB + 1)
    assert (
        NetworkSettings(max_message_bytes=MIB).max_message_bytes == MIB
    )  # the default does not stand in the way


def test_silence_is_longer_than_two_probes():
    assert NetworkSettings(heartbeat_interval_s=1.0, heartbeat_timeout_s=2.0)
    with pytest.raises(ConfigError, match=r"at least twice heartbeat_interval_s \(1\.0\)"):
        NetworkSettings(heartbeat_interval_s=1.0, heartbeat_timeout_s=1.9)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "auto"])
def test_a_bind_that_others_can_reach_needs_insecure(host):
    with pytest.raises(ConfigError, match="other machines can reach"):
        NetworkSettings(host=host)
    assert NetworkSettings(host=host, insecure=True).host == host


@pytest.mark.parametrize("host", ["", "not a host", "*", "1.2.3.4:80", "a" * 300, "-"])
def test_what_cannot_be_bound_is_refused_whatever_else_is_set(host):
    for insecure in (False, True):
        with pytest.raises(ConfigError) as caught:
            NetworkSettings(host=host, insecure=insecure)
        (line,) = lines_of(caught)
        assert line.startswith(f"host is {host!r}; it must be an IP address")


def test_a_plane_is_found_in_any_case_and_a_typo_gets_a_suggestion():
    assert NetworkSettings(request_plane="TCP").request_plane == "tcp"
    with pytest.raises(
        ConfigError, match=r"invalid request plane mode 'tpc'; valid are: .*did you mean \"tcp\""
    ):
        NetworkSettings(request_plane="tpc")


def test_the_environment_wins_over_the_base_and_leaves_the_rest():
    base = NetworkSettings(port=4000, pool_size=7, connect_timeout_s=2)
    environ = {
        "DYN_TCP_RPC_PORT": " 5000 ",
        "DYN_TCP_CONNECT_TIMEOUT": "0.5",
        "DYN_REQUEST_PLANE": "IPC",
        "HOME": "/",
    }
    settings = NetworkSettings.from_env(environ, base)
    assert (settings.port, settings.pool_size, settings.connect_timeout_s) == (5000, 7, 0.5)
    assert settings.request_plane == "ipc"
    assert NetworkSettings.from_env({}, base) == base


def test_every_variable_sets_its_field():
    environ = {
        "DYN_TCP_RPC_HOST": "127.0.0.2",
        "DYN_TCP_RPC_PORT": "1",
        "DYN_TCP_MAX_MESSAGE_SIZE": str(MIB),
        "DYN_TCP_SHRINK_MESSAGE_SIZE": "4",
        "CALLBOARD_SHARED_MEMORY_BYTES": "9",
        "DYN_TCP_REQUEST_TIMEOUT": "5",
        "DYN_TCP_POOL_SIZE": "6",
        "DYN_TCP_CONNECT_TIMEOUT": "7.5",
        "DYN_TCP_CHANNEL_BUFFER": "8",
    }
    assert set(environ) == set(VARIABLES)
    settings = NetworkSettings.from_env(environ)
    assert (settings.host, settings.port) == ("127.0.0.2", 1)
    assert (settings.max_message_bytes, settings.shrink_message_bytes) == (MIB, 4)
    assert (settings.request_timeout_s, settings.connect_timeout_s) == (5.0, 7.5)
    assert (settings.pool_size, settings.channel_buffer, settings.shared_memory_bytes) == (6, 8, 9)


def test_an_empty_variable_sets_nothing():
    assert (
        NetworkSettings.from_env(dict.fromkeys((*VARIABLES, "DYN_REQUEST_PLANE"), " ")) == NetworkSettings()
    )


def test_every_variable_that_is_out_of_range_gets_one_line_with_its_name_value_and_what_is_allowed():
    with pytest.raises(ConfigError) as caught:
        NetworkSettings.from_env({variable: value for variable, (value, _) in VARIABLES.items()})
    lines = lines_of(caught)
    assert len(lines) == len(VARIABLES)
    for variable, (value, allowed) in VARIABLES.items():
        (line,) = (line for line in lines if line.startswith(f"{variable}: "))
        assert value.removesuffix(".0") in line
        assert allowed in line


def test_every_variable_that_is_nonsense_gets_one_line_with_its_name_value_and_what_is_allowed():
    environ = dict.fromkeys(VARIABLES, "nonsense") | {"DYN_REQUEST_PLANE": "nonsense"}
    with pytest.raises(ConfigError) as caught:
        NetworkSettings.from_env(environ, strict=True)
    lines = lines_of(caught)
    assert len(lines) == len(environ)
    for variable in environ:
        (line,) = (line for line in lines if line.startswith(variable))
        assert "'nonsense'" in line
        assert "must be a" in line or "valid are" in line or "insecure = true" in line


def test_two_variables_that_do_not_fit_together_are_both_named():
    environ = {"DYN_TCP_MAX_MESSAGE_SIZE": str(MIB), "DYN_TCP_SHRINK_MESSAGE_SIZE": str(2 * MIB)}
    with pytest.raises(ConfigError) as caught:
        NetworkSettings.from_env(environ)
    (line,) = lines_of(caught)
    assert line.startswith("DYN_TCP_MAX_MESSAGE_SIZE and DYN_TCP_SHRINK_MESSAGE_SIZE: ")


def test_an_unknown_plane_in_the_environment_falls_back_to_tcp_with_one_loud_warning():
    base = NetworkSettings(request_plane="ipc")
    with pytest.warns(
        RuntimeWarning, match=r"invalid request plane mode 'nats2'.*falling back to tcp"
    ) as caught:
        assert NetworkSettings.from_env({"DYN_REQUEST_PLANE": "nats2"}, base).request_plane == "tcp"
    assert len(caught) == 1


@pytest.mark.parametrize(("base", "strict"), [(NetworkSettings(strict_env=True), None), (None, True)])
def test_strict_makes_an_unknown_plane_in_the_environment_an_error(base, strict):
    with pytest.raises(ConfigError, match="DYN_REQUEST_PLANE: invalid request plane mode"):
        NetworkSettings.from_env({"DYN_REQUEST_PLANE": "carrier-pigeon"}, base, strict=strict)
