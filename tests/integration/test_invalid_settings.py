"""Every variable of the environment set to nonsense: one run of the command names them all, with what is allowed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from callboard.testing.cluster import Cluster
from callboard.transports import nats_settings, settings

from .terminal import Finished, callboard

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "examples" / "serving" / "serve.toml"
HIDDEN = "set (a secret, not shown)"

NONSENSE = {
    "DYN_NAMESPACE": ("9 lives", 'letters, digits, "-" and "_" after a letter'),
    "DYN_TCP_RPC_HOST": ("no host", 'an IP address to bind, 0.0.0.0 or :: for all of them, or "auto"'),
    "DYN_TCP_RPC_PORT": ("70000", "between 0 and 65,535"),
    "DYN_TCP_MAX_MESSAGE_SIZE": ("32MB", "a whole number between 65,536 and"),
    "DYN_TCP_SHRINK_MESSAGE_SIZE": ("-1", "a whole number between 0 and"),
    "CALLBOARD_SHARED_MEMORY_BYTES": ("-1", "a whole number between 0 and"),
    "CALLBOARD_ENCODE_IN_PROCESS": ("perhaps", "true or false"),
    "DYN_TCP_REQUEST_TIMEOUT": ("soon", "a number between 0.001 and"),
    "DYN_TCP_POOL_SIZE": ("0", "a whole number between 1 and"),
    "DYN_TCP_CONNECT_TIMEOUT": ("nan", "a number between 0.001 and"),
    "DYN_TCP_CHANNEL_BUFFER": ("1.5", "a whole number between 1 and"),
    "NATS_SERVER": ("http://here", "nats://host:port or tls://host:port"),
    "NATS_AUTH_USERNAME": ("non\tsense", "printable text on one line"),
    "NATS_AUTH_PASSWORD": ("hush\n", "printable text on one line"),
    "NATS_AUTH_TOKEN": ("hush\n", "printable text on one line"),
    "NATS_AUTH_NKEY": ("hush", "the seed of a user: SU"),
    "NATS_AUTH_CREDENTIALS_FILE": ("/no/such.creds", "the path of a file that can be read"),
    "NATS_TLS_CA_CERT_PATH": ("/no/such/ca.pem", "the path of a file that can be read"),
    "NATS_TLS_INSECURE": ("perhaps", "true or false"),
    "NATS_TLS_CLIENT_CERT_PATH": ("/no/such/cert.pem", "the path of a file that can be read"),
    "NATS_TLS_CLIENT_KEY_PATH": ("/no/such/key.pem", "the path of a file that can be read"),
    "NATS_STARTUP_CONNECT_TIMEOUT_SECONDS": ("-1", "a number between 0.001 and"),
}
"""Each variable with a wrong value, and what is allowed; the planes are a case of their own."""

PLANE, EVENTS = "DYN_REQUEST_PLANE", "DYN_EVENT_PLANE"
VALID = "valid are: ipc, memory, nats, tcp"
VALID_EVENTS = "valid are: zmq, nats, jetstream, none"


async def check(config: Path) -> Finished:
    wrong = {variable: value for variable, (value, _) in NONSENSE.items()}
    return await callboard(
        "check", config, env={**os.environ, **wrong, PLANE: "carrier-pigeon", EVENTS: "smoke"}
    )


def assert_all_are_named(lines: list[str]) -> None:
    assert len(lines) == len(NONSENSE), "\n".join(lines)
    for variable, (value, allowed) in NONSENSE.items():
        named = [line for line in lines if variable in line.partition(" is ")[0]]
        (line,) = named or [line for line in lines if line.startswith(variable)]
        assert allowed in line
        shown = value if variable == "DYN_NAMESPACE" else repr(value)
        assert (HIDDEN if "hush" in value else shown.strip("'")) in line
    assert "hush" not in "".join(lines)


def test_no_variable_is_forgotten() -> None:
    known = {*settings.VARIABLES, *nats_settings.VARIABLES, "DYN_NAMESPACE"}
    assert set(NONSENSE) == known


async def test_one_run_names_all_variables_and_an_unknown_plane_is_a_warning(cluster: Cluster) -> None:
    shown = await check(CONFIG)
    assert (shown.code, shown.out) == (2, "")
    lines = [line.strip() for line in shown.err.splitlines()]
    warnings = [
        line for line in lines if "RuntimeWarning" in line or "carrier-pigeon" in line or "smoke" in line
    ]
    plane, events = warnings
    assert f"{PLANE}: invalid request plane mode 'carrier-pigeon'; {VALID}" in plane
    assert "falling back to tcp" in plane
    assert f"{EVENTS}: invalid event plane 'smoke'; {VALID_EVENTS}; falling back to zmq" in events
    problems = [line for line in lines if line.startswith(("environment: ", "DYN_NAMESPACE: "))]
    assert_all_are_named([line.removeprefix("environment: ") for line in problems])
    assert not list(cluster.directory.iterdir()), "nothing was started"


async def test_under_strict_env_the_unknown_plane_is_an_error_of_the_same_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(f"{CONFIG.read_text()}\n[network]\nstrict_env = true\n")
    shown = await check(config)
    assert (shown.code, shown.out) == (2, "")
    assert "RuntimeWarning" not in shown.err
    lines = [line.strip().removeprefix("environment: ") for line in shown.err.splitlines()]
    (plane,) = [line for line in lines if line.startswith(PLANE)]
    assert f"invalid request plane mode 'carrier-pigeon'; {VALID}" in plane
    (events,) = [line for line in lines if line.startswith(EVENTS)]
    assert f"invalid event plane 'smoke'; {VALID_EVENTS}" in events
    assert_all_are_named([line for line in lines if line not in (plane, events)])


@pytest.mark.parametrize("value", ["TCP", "Nats"])
async def test_a_plane_of_the_environment_is_found_in_any_case(cluster: Cluster, value: str) -> None:
    shown = await callboard("check", CONFIG, env={**os.environ, PLANE: value})
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.endswith(f"plane {value.lower()}\n")
