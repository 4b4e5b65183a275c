"""The checks of `callboard doctor`. Pure: each judges the `Facts` and returns what it found.

Each has one subject, and its findings bear its name, under which docs/troubleshooting.md explains them. A check
whose subject does not occur returns nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from .doctor_facts import Facts, Finding, Level, NatsStage, Reach, brings_nats
from .doctor_nats_checks import NATS_CHECKS
from .spec import Config

BASE_DESCRIPTORS = 64
DESCRIPTORS_PER_PROCESS = 12
"""Of one process for each other one: a link in each direction, each with the queues of its sockets."""


def invalid_mode(facts: Facts) -> list[Finding]:
    """The plane that the environment asks for exists."""
    wrong = [text for text in facts.warnings if "invalid request plane mode" in text]
    if wrong:
        do = "correct DYN_REQUEST_PLANE, or unset it; strict_env = true in [network] makes this an error"
        return [Finding("invalid-mode", Level.WARNING, text, do) for text in wrong]
    return [Finding("invalid-mode", Level.OK, f"the request plane is {facts.config.network.request_plane}")]


def plane_mismatch(facts: Facts) -> list[Finding]:
    """File, flag and environment say what the running system of the namespace uses."""
    config, mine = facts.config, facts.mine
    if mine is None or mine.status is None:
        return []
    wanted, used = config.network.request_plane, mine.status.plane
    name = "plane-mismatch"
    if wanted != used:
        text = f'the running system "{config.namespace}" uses {used}; {facts.file} with this environment says {wanted}'
        do = f"stop it and start it again (callboard stop -n {config.namespace}), or set DYN_REQUEST_PLANE={used}"
        return [Finding(name, Level.PROBLEM, text, do)]
    if used == "nats" and mine.settings is not None and not brings_nats(mine):
        ours, theirs = config.network.nats, mine.settings.nats
        if (ours.servers, ours.prefix) != (theirs.servers, theirs.prefix):
            text = (
                f'the running system "{config.namespace}" meets at {", ".join(_shown(theirs.servers))} below'
                f" {theirs.prefix}; here it would be {', '.join(_shown(ours.servers))} below {ours.prefix}"
            )
            do = "start both with the same NATS_SERVER and network.nats.prefix"
            return [Finding(name, Level.PROBLEM, text, do)]
    return [Finding(name, Level.OK, f'the running system "{config.namespace}" uses {used} too')]


def event_plane(facts: Facts) -> list[Finding]:
    """The event plane that is asked for exists, and is the one that the running system of the namespace uses."""
    name = "event-plane"
    config, mine, wanted = facts.config, facts.mine, facts.config.event_plane
    found = [
        Finding(
            name,
            Level.WARNING,
            text,
            "correct DYN_EVENT_PLANE, or unset it; strict_env = true in [network] makes this an error",
        )
        for text in facts.warnings
        if "invalid event plane" in text
    ]
    if mine is not None and mine.status is not None and mine.status.event_plane != wanted:
        used = mine.status.event_plane
        text = (
            f'events of the running system "{config.namespace}" travel over {used}; {facts.file} with this environment'
            f" says {wanted}"
        )
        do = f"stop it and start it again (callboard stop -n {config.namespace}), or set DYN_EVENT_PLANE={used}"
        found.append(Finding(name, Level.PROBLEM, text, do))
    return found or [Finding(name, Level.OK, f"the event plane is {wanted}")]


def process_environment(facts: Facts) -> list[Finding]:
    """No process is given a setting by its environment, where nobody reads it."""
    values: dict[str, dict[str, str]] = defaultdict(dict)
    for group in facts.config.processes:
        for variable, value in group.env.items():
            if variable.startswith(("DYN_", "NATS_")):
                values[variable][group.name] = value
    found = []
    for variable, by_group in values.items():
        groups = ", ".join(f"process.{name}" for name in by_group)
        differ = len(set(by_group.values())) > 1 or len(by_group) < len(facts.config.processes)
        text = f"{variable} in env of {groups} has no effect: all processes take the settings of their supervisor"
        if differ:
            text += "; processes of one system cannot differ in it"
        do = f"set {variable} where `callboard up` runs, or its key in the config, and remove it there"
        plane = {
            "DYN_REQUEST_PLANE": facts.config.network.request_plane,
            "DYN_EVENT_PLANE": facts.config.event_plane,
        }.get(variable)
        mismatch = plane is not None and set(map(str.lower, by_group.values())) != {plane}
        found.append(Finding("process-env", Level.PROBLEM if mismatch else Level.WARNING, text, do))
    return found or [Finding("process-env", Level.OK, "no process is given settings that nobody reads")]


def other_systems(facts: Facts) -> list[Finding]:
    """Which other systems run, and which do not answer."""
    found, names = [], []
    for system in facts.others:
        if system.status is None:
            text = f"the system in {system.directory} does not answer: {system.error}"
            found.append(
                Finding(
                    "other-systems", Level.WARNING, text, "look at it; it may be frozen or of another version"
                )
            )
            continue
        names.append(f"{system.status.namespace} ({system.status.plane})")
        same = system.status.namespace == facts.config.namespace
        if same or system.status.plane != facts.config.network.request_plane:
            text = f'another system, "{system.status.namespace}" in {system.directory}, uses {system.status.plane}'
            do = "actors of different systems do not see each other; stop it if it was meant to be this one"
            found.append(Finding("other-systems", Level.WARNING, text, do))
    shown = f"other systems that run here: {', '.join(names)}" if names else "no other system runs here"
    return found or [Finding("other-systems", Level.OK, shown)]


def version_mismatch(facts: Facts) -> list[Finding]:
    """The running system and its processes speak our protocol, and are of our version."""
    name, mine = "version-mismatch", facts.mine
    rejected = [peer for peer in facts.peers if peer.reach is Reach.REJECTED]
    if rejected:
        do = "upgrade the older side, and start the system again with the version that is installed"
        return [Finding(name, Level.PROBLEM, f"{peer.process}: {peer.text}", do) for peer in rejected]
    if mine is None or mine.status is None:
        return []
    running, protocol = mine.status.version or "an older version", mine.status.protocol
    if protocol and protocol.partition(".")[0] != facts.protocol.partition(".")[0]:
        text = f"the running system speaks protocol version {protocol}, this command {facts.protocol}"
        return [
            Finding(name, Level.PROBLEM, text, "start the system again with the version that is installed")
        ]
    if running != facts.version:
        text = f"the running system is callboard {running}, this command {facts.version}"
        return [Finding(name, Level.WARNING, text, "start the system again when that suits")]
    return [Finding(name, Level.OK, f"the running system is callboard {running} too, protocol {protocol}")]


def peers_reachable(facts: Facts) -> list[Finding]:
    """Every running process answers who dials it."""
    nats = facts.nats_running
    is_cut_off = nats is not None and (nats.stage is not NatsStage.DONE or bool(nats.denied))
    peers = [peer for peer in facts.peers if not (is_cut_off and peer.address.startswith("nats://"))]
    found = []
    if count := len(facts.peers) - len(peers):
        text = f"{count} running processes cannot be reached from here, because NATS cannot; they may be well"
        found.append(
            Finding("port-blocked", Level.WARNING, text, "mend the way to NATS first, as said above")
        )
    for peer in peers:
        who = f"{peer.process} at {peer.address.partition('?')[0]}"
        if peer.health in ("frozen", "stalled"):
            who += f", which is {peer.health},"
        match peer.reach:
            case Reach.BLOCKED:
                text = f"{who} cannot be reached: connections time out, nothing comes back"
                do = "open the port in the firewall between here and there (or look whether the process is frozen)"
            case Reach.REFUSED:
                text = f"{who} refuses connections: nobody listens there"
                do = "the process is dead or restarting; look at callboard ps and at its log"
            case Reach.SILENT:
                text = f"{who} takes connections and does not answer: {peer.text}"
                do = "the process is frozen or busy; look at callboard ps and at its log"
            case Reach.FAILED:
                text, do = f"{who} cannot be reached: {peer.text}", "look at callboard ps and at its log"
            case _:
                continue
        found.append(Finding("port-blocked", Level.PROBLEM, text, do))
    answering = [peer for peer in facts.peers if peer.reach is Reach.ANSWERS]
    if answering and not found:
        found = [Finding("port-blocked", Level.OK, f"{len(answering)} running processes answer")]
    return found


def port_taken(facts: Facts) -> list[Finding]:
    """The ports that the config fixes are free, or held by the system itself."""
    found = []
    for port in facts.ports:
        if port.holder and not port.is_ours:
            text = f"{port.user}: {port.host}:{port.port} is taken by {port.holder}"
            do = "stop that, or choose another port (0 takes a free one)"
            found.append(Finding("port-taken", Level.PROBLEM, text, do))
    shown = ", ".join(str(port.port) for port in facts.ports) or "the config fixes none"
    return found or [Finding("port-taken", Level.OK, f"ports: {shown}")]


def limits_differ(facts: Facts) -> list[Finding]:
    """The limit of a message is the same for the running system and for who starts with this config."""
    mine = facts.mine
    if mine is None or mine.settings is None:
        return []
    ours, theirs = facts.config.network.max_message_bytes, mine.settings.max_message_bytes
    if ours == theirs:
        return [Finding("limits-differ", Level.OK, f"a message may have {ours:,} bytes everywhere")]
    text = f"a message may have {theirs:,} bytes in the running system, {ours:,} by {facts.file} and this environment"
    do = "the smaller limit holds; set the same DYN_TCP_MAX_MESSAGE_SIZE (network.max_message_bytes) on both sides"
    return [Finding("limits-differ", Level.PROBLEM, text, do)]


def descriptors(facts: Facts) -> list[Finding]:
    """The limit of open files lets every process talk to every other one."""
    needed = descriptors_needed(facts.config, facts.processes)
    if facts.soft_descriptors >= needed:
        return [
            Finding(
                "descriptors",
                Level.OK,
                f"{facts.soft_descriptors:,} files may be open, {needed:,} may be needed",
            )
        ]
    text = f"{facts.soft_descriptors:,} files may be open in a process, and {needed:,} may be needed"
    can = (
        f"ulimit -n {needed}"
        if facts.hard_descriptors >= needed
        else "have the hard limit raised (ulimit -Hn)"
    )
    return [Finding("descriptors", Level.PROBLEM, text, f"{can} before `callboard up`")]


def descriptors_needed(config: Config, processes: int) -> int:
    """How many descriptors one process may need, connections from outside not counted."""
    peers = processes if config.network.request_plane != "nats" else 1
    return BASE_DESCRIPTORS + DESCRIPTORS_PER_PROCESS * peers


def embedded_server(facts: Facts) -> list[Finding]:
    """What --nats-embedded would run is there."""
    if not facts.nats_embedded:
        return []
    if facts.nats_server:
        return [Finding("nats-server-missing", Level.OK, f"--nats-embedded runs {facts.nats_server}")]
    reason, _, ways_out = facts.nats_server_error.partition("; ")
    return [Finding("nats-server-missing", Level.PROBLEM, reason, ways_out)]


def _shown(servers: Iterable[str]) -> list[str]:
    from callboard.transports.nats_settings import without_password

    return [without_password(server) for server in servers]


CHECKS: tuple[Callable[[Facts], list[Finding]], ...] = (
    invalid_mode,
    plane_mismatch,
    event_plane,
    process_environment,
    other_systems,
    embedded_server,
    *NATS_CHECKS,
    port_taken,
    peers_reachable,
    version_mismatch,
    limits_differ,
    descriptors,
)


def examine(facts: Facts) -> list[Finding]:
    """Return what all checks found, in the order of `CHECKS`."""
    return [finding for check in CHECKS for finding in check(facts)]


def config_findings(problems: Iterable[str]) -> list[Finding]:
    """Return the mistakes of a config that cannot be read as findings."""
    return [Finding(_check_of(problem), Level.PROBLEM, problem) for problem in problems]


def _check_of(problem: str) -> str:
    if "invalid event plane" in problem:
        return "event-plane"
    return "invalid-mode" if "invalid request plane mode" in problem else "config"
