"""The checks of `callboard doctor` that concern NATS. Pure, as in `doctor_checks`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .doctor_facts import Facts, Finding, Level, NatsFacts, NatsStage, needs_jetstream

LEAST_FOR_JETSTREAM = (2, 11)
LEAST = (2, 14)
LARGEST_DIFFERENCE_S = 1.0


def unreachable(facts: Facts, nats: NatsFacts) -> list[Finding]:
    """The NATS server answers."""
    if nats.stage is not NatsStage.CONNECT:
        return [Finding("nats-unreachable", Level.OK, f"NATS {nats.version} answers at {nats.where}")]
    do = "start it, correct NATS_SERVER (network.nats.servers), or let callboard up --nats-embedded start one"
    return [Finding("nats-unreachable", Level.PROBLEM, f"no NATS answers: {nats.error}", do)]


def tls(facts: Facts, nats: NatsFacts) -> list[Finding]:
    """The encryption that the settings ask for comes about, and none is missing."""
    if nats.stage is NatsStage.CONNECT:
        return []
    if nats.stage is NatsStage.TLS:
        do = "look at NATS_TLS_CA_CERT_PATH, NATS_TLS_CLIENT_* and at nats:// or tls:// in NATS_SERVER"
        return [Finding("nats-tls", Level.PROBLEM, f"TLS with {nats.where} failed: {nats.error}", do)]
    how = (
        "the connection is encrypted" if _settings_use_tls(facts, nats) else "the connection is not encrypted"
    )
    return [Finding("nats-tls", Level.OK, how)]


def credentials(facts: Facts, nats: NatsFacts) -> list[Finding]:
    """The server takes our credentials."""
    if nats.stage in (NatsStage.CONNECT, NatsStage.TLS):
        return []
    if nats.stage is NatsStage.CREDENTIALS:
        do = "look at NATS_AUTH_USERNAME and _PASSWORD, _TOKEN, _NKEY or _CREDENTIALS_FILE (network.nats)"
        text = f"NATS at {nats.where} does not let us in: {nats.error}"
        return [Finding("nats-credentials", Level.PROBLEM, text, do)]
    return [Finding("nats-credentials", Level.OK, "NATS lets us in")]


def permissions(facts: Facts, nats: NatsFacts) -> list[Finding]:
    """The server lets us talk in the namespace."""
    if nats.stage is not NatsStage.DONE:
        return []
    if nats.denied:
        text = f"NATS at {nats.where} lets us in, and not talk below {nats.below}: {nats.denied}"
        do = f'permit this user to publish and subscribe to "{nats.below}.>", or change namespace or nats.prefix'
        return [Finding("nats-permissions", Level.PROBLEM, text, do)]
    return [Finding("nats-permissions", Level.OK, f"a message below {nats.below} goes there and back")]


def version(facts: Facts, nats: NatsFacts) -> list[Finding]:
    """The server is as new as what we use of it."""
    if not nats.version:
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


def jetstream(facts: Facts, nats: NatsFacts) -> list[Finding]:
    """JetStream is on where something is stored, and we may use it."""
    if not _lets_us_talk(nats):
        return []
    if nats.jetstream:
        return [Finding("jetstream-off", Level.OK, "JetStream is on")]
    if nats.jetstream_denied:
        state = f"JetStream is not permitted to us: {nats.jetstream_denied}"
        do = (
            'permit this user to publish to "$JS.API.>" and "$JS.ACK.>"; whether JetStream is on is not known'
        )
    else:
        state = f"JetStream is off at {nats.where}"
        do = "start the server with --jetstream (-js), and enable it for the account"
    if needs_jetstream(facts.config):
        text = f"{state}, and the config stores messages or events in it"
        return [Finding("jetstream-off", Level.PROBLEM, text, do)]
    return [Finding("jetstream-off", Level.OK, f"{state}, and nothing needs it")]


def pieces(facts: Facts, nats: NatsFacts) -> list[Finding]:
    """What the server takes at a time, against what a message may have."""
    limit = facts.config.network.max_message_bytes
    if not _lets_us_talk(nats) or facts.config.network.request_plane != "nats":
        return []
    text = f"NATS takes {nats.max_payload_bytes:,} bytes at a time"
    if nats.max_payload_bytes < limit:
        text += f"; messages of up to {limit:,} bytes travel in pieces"
    return [Finding("nats-payload", Level.OK, text)]


def clock(facts: Facts, nats: NatsFacts) -> list[Finding]:
    """Our clock and the server's agree."""
    if not _lets_us_talk(nats) or nats.ahead_s is None:
        return []
    off_s = max(0.0, abs(nats.ahead_s) - nats.within_s)
    if off_s <= LARGEST_DIFFERENCE_S:
        return [Finding("clock", Level.OK, f"our clock and that of NATS differ by {off_s:.1f} s at most")]
    which = "ahead of" if nats.ahead_s > 0 else "behind"
    text = f"the clock of NATS at {nats.where} is {off_s:.1f} s {which} ours; what it stores bears its times"
    return [Finding("clock", Level.WARNING, text, "set both clocks by NTP")]


def used(facts: Facts) -> list[Finding]:
    """Whether anything uses a NATS to look at."""
    if facts.nats is not None or facts.nats_running is not None:
        return []
    what = "one is started by --nats-embedded" if facts.nats_embedded else "nothing uses NATS"
    return [Finding("nats-unreachable", Level.OK, what)]


def _looks(facts: Facts) -> list[tuple[str, NatsFacts]]:
    """By whose settings NATS was looked at, if there are several that differ, and what was seen."""
    ours, theirs = facts.nats, facts.nats_running
    if ours is None or theirs is None or ours == theirs:
        return [("", look) for look in (ours or theirs,) if look is not None]
    return [("by file and environment, ", ours), ("by the settings of the running system, ", theirs)]


def _each(check: Callable[[Facts, NatsFacts], list[Finding]]) -> Callable[[Facts], list[Finding]]:
    def judge(facts: Facts) -> list[Finding]:
        return [
            replace(finding, text=whose + finding.text)
            for whose, nats in _looks(facts)
            for finding in check(facts, nats)
        ]

    return judge


NATS_CHECKS: tuple[Callable[[Facts], list[Finding]], ...] = (
    used,
    *map(_each, (unreachable, tls, credentials, permissions, version, jetstream, pieces, clock)),
)


def version_of(text: str) -> tuple[int, int]:
    """Return major and minor number.

    >>> version_of("2.15.1"), version_of("2.12.0-RC.1"), version_of("?")
    ((2, 15), (2, 12), (0, 0))
    """
    numbers = [int(part) for part in text.split(".")[:2] if part.isdecimal()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _lets_us_talk(nats: NatsFacts) -> bool:
    return nats.stage is NatsStage.DONE and not nats.denied


def _settings_use_tls(facts: Facts, nats: NatsFacts) -> bool:
    mine = facts.mine
    if nats is facts.nats or mine is None or mine.settings is None:
        return facts.config.network.nats.uses_tls
    return mine.settings.nats.uses_tls
