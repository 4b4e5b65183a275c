"""Each ``NATS_*`` setting, read from the environment, does on a real server what it says."""

import asyncio
import shutil
import socket
from contextlib import asynccontextmanager, suppress

import nkeys
import pytest

from callboard.supervisor.nats_server import NatsServer
from callboard.testing.conformance.network import Node, until
from callboard.transports.errors import ConnectTimeout, NoRoute
from callboard.transports.nats_client import confirm, connect
from callboard.transports.settings import NetworkSettings

from .nats_identities import certificates, new_key, operator_mode


@asynccontextmanager
async def server(directory, config="", **options):
    started = NatsServer(directory / "nats", token="", jetstream=False, extra_config=config, **options)
    await started.start()
    try:
        yield started
    finally:
        await started.stop()


def settings(environ):
    return NetworkSettings.from_env({"DYN_REQUEST_PLANE": "nats", **environ})


@asynccontextmanager
async def node(name, environ):
    """A started node with what the environment says."""
    made = Node(settings(environ), name=name, namespace="contract", node=name, listen=True)
    try:
        await made.network.start()
        yield made
    finally:
        await made.network.close()


async def talk(environ):
    """Two nodes send each other a message."""
    async with node("one", environ) as one, node("two", environ) as two:
        link = await one.dial(two)
        link.send([b"hello"])
        await until(lambda: two.received)
        two.up[0].send([b"and back"])
        await until(lambda: one.received)


async def refusal(environ):
    """The error of a start that must fail."""
    with pytest.raises(NoRoute) as caught:
        async with node("refused", environ):
            pass
    return str(caught.value)


async def test_what_is_confirmed_is_known_to_the_server(tmp_path):
    """Or who has started is not found. With a mere flush of nats-py this fails in one round of twenty."""

    async def here(message):
        await message.respond(b"here")

    async with server(tmp_path) as nats:
        local = settings({"NATS_SERVER": nats.url})
        listener, asker = [await connect(local, name, limit_s=30) for name in ("listener", "asker")]
        try:
            for number in range(300):
                await listener.subscribe(f"subject.{number}", cb=here)
                await confirm(listener)
                answer = await asker.request(f"subject.{number}", b"", timeout=30)
                assert answer.data == b"here"
        finally:
            await listener.close()
            await asker.close()


async def test_username_and_password(tmp_path):
    async with server(tmp_path, 'authorization { user: ann, password: "a secret" }') as nats:
        base = {"NATS_SERVER": nats.url}
        await talk(base | {"NATS_AUTH_USERNAME": "ann", "NATS_AUTH_PASSWORD": "a secret"})
        for wrong in (
            {},
            {"NATS_AUTH_USERNAME": "ann", "NATS_AUTH_PASSWORD": "hush"},
            {"NATS_AUTH_TOKEN": "hush"},
        ):
            error = await refusal(base | wrong)
            assert "NATS_AUTH_USERNAME and _PASSWORD" in error
            assert "hush" not in error


async def test_user_and_password_in_the_url(tmp_path):
    async with server(tmp_path, 'authorization { user: ann, password: "secret" }') as nats:
        await talk({"NATS_SERVER": nats.url.replace("//", "//ann:secret@")})
        error = await refusal({"NATS_SERVER": nats.url.replace("//", "//ann:hush@")})
        assert "hush" not in error


async def test_token(tmp_path):
    async with server(tmp_path, "authorization { token: abc }") as nats:
        await talk({"NATS_SERVER": nats.url, "NATS_AUTH_TOKEN": "abc"})
        assert "refused" in await refusal({"NATS_SERVER": nats.url, "NATS_AUTH_TOKEN": "abd"})


async def test_nkey(tmp_path):
    key, seed = new_key(nkeys.PREFIX_BYTE_USER)
    _, other = new_key(nkeys.PREFIX_BYTE_USER)
    config = f"authorization {{ users: [ {{ nkey: {key.public_key.decode()} }} ] }}"
    async with server(tmp_path, config) as nats:
        await talk({"NATS_SERVER": nats.url, "NATS_AUTH_NKEY": seed})
        error = await refusal({"NATS_SERVER": nats.url, "NATS_AUTH_NKEY": other})
        assert "refused" in error
        assert other not in error


async def test_credentials_file(tmp_path):
    good, other = tmp_path / "good.creds", tmp_path / "other.creds"
    config = operator_mode(good)
    operator_mode(other)
    async with server(tmp_path, config) as nats:
        await talk({"NATS_SERVER": nats.url, "NATS_AUTH_CREDENTIALS_FILE": str(good)})
        error = await refusal({"NATS_SERVER": nats.url, "NATS_AUTH_CREDENTIALS_FILE": str(other)})
        assert "refused" in error


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("keys")
    certificates(folder)
    return folder


def tls(keys, *, verify):
    """TLS in the server's configuration; with ``verify`` it wants to see a certificate."""
    ca = f', ca_file: "{keys}/ca.pem", verify: true' if verify else ""
    return f'tls {{ cert_file: "{keys}/server.pem", key_file: "{keys}/server.key"{ca} }}'


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_the_authority_of_the_server_is_checked_unless_told_otherwise(tmp_path, keys, scheme):
    async with server(tmp_path, tls(keys, verify=False)) as nats:
        base = {"NATS_SERVER": nats.url.replace("nats:", f"{scheme}:")}
        await talk(base | {"NATS_TLS_CA_CERT_PATH": str(keys / "ca.pem")})
        await talk(base | {"NATS_TLS_INSECURE": "1"})
        error = await refusal(base | {"NATS_TLS_CA_CERT_PATH": str(keys / "other.pem")})
        assert "TLS failed" in error
        assert "NATS_TLS_CA_CERT_PATH" in error


async def test_a_certificate_is_shown_to_a_server_that_wants_one(tmp_path, keys):
    async with server(tmp_path, tls(keys, verify=True)) as nats:
        base = {"NATS_SERVER": nats.url, "NATS_TLS_CA_CERT_PATH": str(keys / "ca.pem")}
        own = {
            "NATS_TLS_CLIENT_CERT_PATH": str(keys / "client.pem"),
            "NATS_TLS_CLIENT_KEY_PATH": str(keys / "client.key"),
        }
        await talk(base | own)
        await refusal(base)


async def test_tls_that_was_asked_for_is_not_done_without(tmp_path, keys):
    async with server(tmp_path) as nats:
        for environ in (
            {"NATS_SERVER": nats.url, "NATS_TLS_CA_CERT_PATH": str(keys / "ca.pem")},
            {"NATS_SERVER": nats.url.replace("nats:", "tls:")},
        ):
            assert "TLS" in await refusal(environ)


async def test_of_several_servers_one_that_is_there_is_used(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"nats://127.0.0.1:{unused.getsockname()[1]}"
        async with server(tmp_path) as nats:
            await talk({"NATS_SERVER": f"{dead},{nats.url}"})


async def test_a_start_waits_for_a_server_as_long_as_it_is_told(tmp_path):
    async with server(tmp_path) as nats:
        await nats.stop()
        hasty = {"NATS_SERVER": nats.url, "NATS_STARTUP_CONNECT_TIMEOUT_SECONDS": "0.3"}
        patient = hasty | {"NATS_STARTUP_CONNECT_TIMEOUT_SECONDS": "100"}
        made = Node(settings(patient), name="patient", namespace="contract", node="patient", listen=True)
        starting = asyncio.create_task(made.network.start())
        try:
            await asyncio.sleep(0)
            assert nats.url in await refusal(hasty)
            assert not starting.done()
            await nats.start()
            async with asyncio.timeout(30):
                await starting
        finally:
            starting.cancel()
            with suppress(asyncio.CancelledError, NoRoute):
                await starting
            await made.network.close()


async def test_a_server_that_takes_connections_and_says_nothing_is_a_connect_timeout(tmp_path):
    async with server(tmp_path) as nats:
        nats.pause()
        environ = {"NATS_SERVER": nats.url, "NATS_STARTUP_CONNECT_TIMEOUT_SECONDS": "0.3"}
        with pytest.raises(ConnectTimeout, match=r"within 0\.3 s"):
            async with node("waits", environ):
                pass
        nats.resume()


async def test_installations_with_different_prefixes_do_not_meet(tmp_path):
    async with server(tmp_path) as nats:
        one = settings({"NATS_SERVER": nats.url})
        async with node("one", {"NATS_SERVER": nats.url}) as first:
            assert first.address == "nats://callboard.contract._node.one"
            changed = NetworkSettings(request_plane="nats", nats={"servers": [nats.url], "prefix": "other"})
            assert (one.nats.prefix, changed.nats.prefix) == ("callboard", "other")
            second = Node(changed, name="two", namespace="contract", node="two", listen=True)
            try:
                await second.network.start()
                assert second.address == "nats://other.contract._node.two"
                with pytest.raises(NoRoute):
                    await second.dial("nats://other.contract._node.one")
            finally:
                await second.network.close()
