"""The checks of `callboard doctor` that concern NATS. Pure, as in `doctor_checks`."""

from __future__ import annotations

from collections.abc import Callable

from .doctor_facts import Facts, Finding, Level, NatsFacts, NatsStage, needs_jetstream

LEAST_FOR_JETSTREAM = (2, 11)
LEAST = (2, 14)
LARGEST_DIFFERENCE_S = 1.0


def unreachable(facts: Facts) -> list[Finding]:
    """The NATS server answers."""
    nats = facts.nats
    if nats is None:
        what = "one is started by --nats-embedded" if facts.nats_embedded else "nothing uses NATS"
        return [Finding("nats-unreachable", Level.OK, what)]
    if nats.stage is not NatsStage.CONNECT:
        return [Finding("nats-unreachable", Level.OK, f"NATS {nats.version} answers at {nats.where}")]
    do = "start it, correct NATS_SERVER (network.nats.servers), or let callboard up --nats-embedded start one"
    return [Finding("nats-unreachable", Level.PROBLEM, f"no NATS answers: {nats.error}", do)]


def tls(facts: Facts) -> list[Finding]:
    """The encryption that the settings ask for comes about, and none is missing."""
    nats = facts.nats
    if nats is None or nats.stage is NatsStage.CONNECT:
        return []
    if nats.stage is NatsStage.TLS:
        do = "look at NATS_TLS_CA_CERT_PATH, NATS_TLS_CLIENT_* and at nats:// or tls:// in NATS_SERVER"
        return [Finding("nats-tls", Level.PROBLEM, f"TLS with {nats.where} failed: {nats.error}", do)]
    how = "the connection is encrypted" if _settings_use_tls(facts) else "the connection is not encrypted"
    return [Finding("nats-tls", Level.OK, how)]


def credentials(facts: Facts) -> list[Finding]:
    """The server takes our credentials."""
    nats = facts.nats
    if nats is None or nats.stage in (NatsStage.CONNECT, NatsStage.TLS):
        return []
    if nats.stage is NatsStage.CREDENTIALS:
        do = "look at NATS_AUTH_USERNAME and _PASSWORD, _TOKEN, _NKEY or _CREDENTIALS_FILE (network.nats)"
        text = f"NATS at {nats.where} does not let us in: {nats.error}"
        return [Finding("nats-credentials", Level.PROBLEM, text, do)]
    return [Finding("nats-credentials", Level.OK, "NATS lets us in")]


def version(facts: Facts) -> list[Finding]:
    """The server is as new as what we use of it."""
    nats = facts.nats
    if nats is None or not nats.version:
        return []
    number = version_of(nats.version)
    wanted = ".".join(map(str, LEAST))
    if number < LEAST_FOR_JETSTREAM and needs_jetstream(facts.config):
        text = f"NATS {nats.version} is too old for what is to be stored in JetStream"
        return [Finding("nats-version", Level.PROBLEM, text, f"upgrade the server to {wanted} or newer")]
    if number < LEAST:
        text = f"NATS {nats.version} is older than what callboard is tested with"
        return [Finding("nats-version", Level.WARNING, text, f"upgrade the server to {wanted} or newer")]
    return [Finding("nats-version", Level.OK, f"NATS {nats.version} is new enough")]


def jetstream(facts: Facts) -> list[Finding]:
    """JetStream is on where something is stored."""
    nats = _done(facts)
    if nats is None:
        return []
    if nats.jetstream:
        return [Finding("jetstream-off", Level.OK, "JetStream is on")]
    if needs_jetstream(facts.config):
        text = f"JetStream is off at {nats.where}, and the config stores messages or events in it"
        do = "start the server with --jetstream (-js), and enable it for the account"
        return [Finding("jetstream-off", Level.PROBLEM, text, do)]
    return [Finding("jetstream-off", Level.OK, "JetStream is off, and nothing needs it")]


def pieces(facts: Facts) -> list[Finding]:
    """What the server takes at a time, against what a message may have."""
    nats, limit = _done(facts), facts.config.network.max_message_bytes
    if nats is None or facts.config.network.request_plane != "nats":
        return []
    text = f"NATS takes {nats.max_payload_bytes:,} bytes at a time"
    if nats.max_payload_bytes < limit:
        text += f"; messages of up to {limit:,} bytes travel in pieces"
    return [Finding("nats-payload", Level.OK, text)]


def clock(facts: Facts) -> list[Finding]:
    """Our clock and the server's agree."""
    nats = _done(facts)
    if nats is None or nats.ahead_s is None:
        return []
    off_s = max(0.0, abs(nats.ahead_s) - nats.within_s)
    if off_s <= LARGEST_DIFFERENCE_S:
        return [Finding("clock", Level.OK, f"our clock and that of NATS differ by {off_s:.1f} s at most")]
    which = "ahead of" if nats.ahead_s > 0 else "behind"
    text = f"the clock of NATS at {nats.where} is {off_s:.1f} s {which} ours; what it stores bears its times"
    return [Finding("clock", Level.WARNING, text, "set both clocks by NTP")]


NATS_CHECKS: tuple[Callable[[Facts], list[Finding]], ...] = (
    unreachable,
    tls,
    credentials,
    version,
    jetstream,
    pieces,
    clock,
)


def version_of(text: str) -> tuple[int, int]:
    """Return major and minor number.

    >>> version_of("2.15.1"), version_of("2.12.0-RC.1"), version_of("?")
    ((2, 15), (2, 12), (0, 0))
    """
    numbers = [int(part) for part in text.split(".")[:2] if part.isdecimal()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _done(facts: Facts) -> NatsFacts | None:
    return facts.nats if facts.nats is not None and facts.nats.stage is NatsStage.DONE else None


def _settings_use_tls(facts: Facts) -> bool:
    mine = facts.mine
    settings = mine.settings if mine is not None and mine.settings is not None else facts.config.network
    return settings.nats.uses_tls
