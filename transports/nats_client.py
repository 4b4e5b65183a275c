"""How a NATS client is made of the settings, and what its errors mean."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .errors import ConnectTimeout, NoRoute
from .nats_settings import Credentials, NatsSettings, without_password
from .settings import NetworkSettings

PENDING_BYTES = 256 * 1024 * 1024
"""Below it, ``publish`` never waits; what is queued stays far below by our own account."""
CLOSE_S = 2.0
CONFIRM_S = 5.0
REFUSED = ("authorization violation", "authentication", "user authentication")

log = logging.getLogger("callboard.transports.nats")


class _Client(Client):
    """Drops what waits for a connection that has ended: nats-py would write it there, which raises with uvloop."""

    async def _process_op_err(self, error: Exception) -> None:
        self._pending, self._pending_data_size = [], 0
        await super()._process_op_err(error)


class Refused(NoRoute):
    """The NATS server does not accept the credentials, or the encryption."""

    verb = "refused the connection"


def where(settings: NatsSettings) -> str:
    """Return the servers as text, without passwords."""
    return ", ".join(map(without_password, settings.servers))


async def connect(
    settings: NetworkSettings,
    name: str,
    *,
    limit_s: float,
    inbox: str = "_INBOX",
    closed: Callable[[], Awaitable[None]] | None = None,
    failed: Callable[[Exception], Awaitable[None]] | None = None,
) -> Client:
    """Return a client that is connected to one of the servers; each of them gets its share of the time.

    ``inbox`` is what the subjects for its own answers begin with. It never reconnects by itself: ``closed`` is called
    when the connection is lost. Raises `Refused`, `ConnectTimeout` and `NoRoute`, of the last server that was tried.
    """
    settings.nats.require_extras()
    until_s = monotonic() + limit_s
    servers = random.sample(settings.nats.servers, len(settings.nats.servers))
    for number, server in enumerate(servers):
        share_s = max(0.001, (until_s - monotonic()) / (len(servers) - number))
        try:
            return await _connect(settings, server, name, share_s, inbox, closed, failed)
        except NoRoute as error:
            if number == len(servers) - 1:
                raise
            log.info("%s; trying the next server", error)
    raise AssertionError("settings without a server")


async def _connect(
    settings: NetworkSettings,
    server: str,
    name: str,
    limit_s: float,
    inbox: str,
    closed: Callable[[], Awaitable[None]] | None,
    failed: Callable[[Exception], Awaitable[None]] | None,
) -> Client:
    options, place, last = settings.nats, without_password(server), ""

    async def noted(error: Exception) -> None:
        nonlocal last
        last = str(error) or type(error).__name__
        if client.is_connected and failed is not None:
            await failed(error)

    client = _Client()
    try:
        async with asyncio.timeout(limit_s):
            await client.connect(
                servers=[server],
                name=name,
                inbox_prefix=inbox,
                error_cb=noted,
                closed_cb=closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0.05,  # type: ignore[arg-type]  # seconds, whatever the annotation says
                connect_timeout=limit_s,  # type: ignore[arg-type]
                ping_interval=settings.heartbeat_interval_s,  # type: ignore[arg-type]
                max_outstanding_pings=max(
                    1, int(settings.heartbeat_timeout_s / settings.heartbeat_interval_s) - 1
                ),
                pending_size=PENDING_BYTES,
                **_credentials(options),
            )
        if not client.is_connected:
            raise nats.errors.Error("the connection ended at once")
    except TimeoutError:
        await close(client)
        why = f"no NATS server answered within {limit_s:.3g} s"
        raise ConnectTimeout(place, f"{why}: {last}" if last else why) from None
    except nats.errors.NoServersError:
        await close(client)
        raise NoRoute(place, f"no NATS server is there: {last or 'none could be reached'}") from None
    except Exception as error:  # also what a server that is none makes of the client
        await close(client)
        raise _judged(place, error) from None
    except BaseException:
        await close(client)
        raise
    if options.uses_tls and not client._server_info.get("tls_required"):
        await close(client)
        raise Refused(
            place, "TLS was asked for, and this NATS server does not offer it; set up tls in the server"
        )
    return client


def publish_now(
    client: Client, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
) -> None:
    """Publish without waiting: a step of nats-py's coroutine queues the message, and has nothing to wait for.

    It would wait above `PENDING_BYTES`, which our own account never reaches, or behind a flusher that has died; it has
    queued the message by then. Raises `nats.errors.Error`, with nothing queued.
    """
    sending = client.publish(subject, payload, reply, headers)
    try:
        sending.send(None)
    except StopIteration:
        return
    sending.close()


def _judged(servers: str, error: Exception) -> NoRoute:
    text = str(error).strip().removeprefix("nats:").strip(" '\"") or type(error).__name__
    if any(word in text.lower() for word in REFUSED):
        return Refused(
            servers,
            f"{text}; check network.nats (NATS_AUTH_USERNAME and _PASSWORD, _TOKEN, _NKEY or _CREDENTIALS_FILE)",
        )
    if isinstance(error, ssl.SSLError):
        return Refused(
            servers, f"TLS failed: {text}; check network.nats (NATS_TLS_CA_CERT_PATH and the others)"
        )
    return NoRoute(servers, text)


def _credentials(options: NatsSettings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    match options.credentials:
        case Credentials.PASSWORD:
            found = {"user": options.username, "password": options.password}
        case Credentials.TOKEN:
            found = {"token": options.token}
        case Credentials.NKEY:
            found = {"nkeys_seed_str": options.nkey}
        case Credentials.FILE:
            found = {"user_credentials": options.credentials_file}
    if options.uses_tls:
        found["tls"] = tls_context(options)
    return found


def tls_context(options: NatsSettings) -> ssl.SSLContext:
    """Return what the TLS settings say. Raises `OSError` and `ssl.SSLError` for files that cannot be used."""
    context = ssl.create_default_context(cafile=options.tls_ca_cert_path or None)
    if options.tls_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.tls_client_cert_path:
        context.load_cert_chain(options.tls_client_cert_path, options.tls_client_key_path)
    return context


async def next_message(subscription: Subscription, limit_s: float) -> Msg:
    """Return the next message of a subscription. Raises `nats.errors.Error`.

    nats-py's own makes an error of the connection out of a cancellation that meets a connection which has just ended;
    a loop that tries again after errors would never end then.
    """
    try:
        return await subscription.next_msg(limit_s)
    except nats.errors.ConnectionClosedError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise


async def confirm(client: Client, limit_s: float = CONFIRM_S) -> None:
    """Return when the server has taken everything that was sent before: a message to ourselves comes behind it.

    Not nats-py's ``flush``: its ping overtakes commands that still wait for the flusher, and a pong that comes after
    its time limit ends the loop that reads, without a word. Raises `nats.errors.TimeoutError`.
    """
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    try:
        await client.publish(inbox)
        await next_message(subscription, limit_s)
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def drain(client: Client, subscription: Subscription) -> None:
    """End a subscription when everything that comes on it was handled.

    Like nats-py's own, with what `confirm` does in the place of its ``flush``.
    """
    try:
        await client._send_unsubscribe(subscription._id)
        await confirm(client)
        await subscription._pending_queue.join()
    finally:  # also when a time limit cuts this off
        with contextlib.suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()


async def close(client: Client) -> None:
    """End a client; a server that has stopped reading holds nobody up, and a cancellation leaves no socket open."""
    try:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_S):
                await client.close()
    finally:
        abort(client)


def abort(client: Client) -> None:
    """Drop the connection with what waits for it: nats-py would wait for ever for a server that does not read."""
    writer = getattr(getattr(client, "_transport", None), "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


def host_of(client: Client) -> str:
    """Return the host and port of the server that a client is connected to."""
    url = client.connected_url
    return url.netloc.rpartition("@")[2] if url is not None else "nowhere"
