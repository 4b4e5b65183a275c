"""docs/troubleshooting.md: every symptom on it is produced here, with the message it shows and the line of doctor."""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from callboard.supervisor.cli_doctor import lines_of
from callboard.supervisor.doctor import _Nobody, gather
from callboard.supervisor.doctor_checks import examine
from callboard.supervisor.errors import NatsServerMissing
from callboard.supervisor.nats_server import find_binary
from callboard.testing.cluster import Cluster
from callboard.testing.nats_session import NatsForTest
from callboard.transports import handshake
from callboard.transports.address import Address
from callboard.transports.base import Identity
from callboard.transports.errors import ConnectTimeout, HandshakeRefused, TooLarge
from callboard.transports.manager import NetworkManager
from callboard.transports.settings import NetworkSettings

from .actors_for_tests import Echo
from .terminal import callboard

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CONFIG = """
namespace = "sick"
[actor.echo]
class = "actors_for_tests:Echo"
[process.e]
actors = ["echo"]
"""


@dataclass
class Bench:
    """What a symptom is produced with."""

    cluster: Cluster
    nats: NatsForTest
    path: Path
    patch: pytest.MonkeyPatch

    async def run(self, *words: object, **variables: str) -> tuple[int, str]:
        """Exit code and all output of a command on the config."""
        command, *rest = words
        done = await callboard(command, self.path, *rest, env={**os.environ, **variables})
        return done.code, done.out + done.err

    async def doctor(self, *words: object, **variables: str) -> str:
        """What doctor prints about a problem that it finds."""
        code, text = await self.run("doctor", *words, **variables)
        assert code == 1, text
        return text

    async def doctor_here(self, **options: Any) -> str:
        """The same in this process, where things can be replaced."""
        return "\n".join(lines_of(examine(await gather(self.path, **options))))


Symptom = Callable[[Bench], Awaitable[tuple[str, str]]]
SYMPTOMS: dict[str, Symptom] = {}
"""What produces each symptom; returns what was said, and what doctor says."""


def symptom(name: str) -> Callable[[Symptom], Symptom]:
    def noted(function: Symptom) -> Symptom:
        SYMPTOMS[name] = function
        return function

    return noted


@symptom("plane-mismatch")
async def plane_mismatch(bench: Bench) -> tuple[str, str]:
    system = await bench.cluster.up(bench.path, plane="tcp")
    bench.path.write_text(f'{CONFIG}env = {{ DYN_REQUEST_PLANE = "tcp" }}\n')
    flags = ("--plane", "nats", "-n", system.namespace)
    code, said = await bench.run("up", *flags, **bench.nats.environment())
    assert code == 5
    return said, await bench.doctor(*flags, **bench.nats.environment())


@symptom("invalid-mode")
async def invalid_mode(bench: Bench) -> tuple[str, str]:
    code, flagged = await bench.run("up", "--plane", "ntas")
    assert code == 2
    code, told = await bench.run("doctor", "--plane", "ntas")
    assert code == 2
    _, warned = await bench.run("check", DYN_REQUEST_PLANE="ntas")
    code, told_of_warning = await bench.run("doctor", DYN_REQUEST_PLANE="ntas")
    assert code == 0
    return flagged + warned, told + told_of_warning


@symptom("event-plane")
async def event_plane(bench: Bench) -> tuple[str, str]:
    system = await bench.cluster.up(bench.path, plane="tcp")
    code, flagged = await bench.run("up", "--event-plane", "zqm")
    assert code == 2
    code, told = await bench.run("doctor", "--event-plane", "zqm")
    assert code == 2
    _, warned = await bench.run("check", DYN_EVENT_PLANE="zqm")
    _, told_of_warning = await bench.run("doctor", DYN_EVENT_PLANE="zqm")
    differs = await bench.doctor("--event-plane", "none", "-n", system.namespace)
    return flagged + warned, told + told_of_warning + differs


@symptom("nats-unreachable")
async def nats_unreachable(bench: Bench) -> tuple[str, str]:
    with port(listening=False) as number:
        nowhere = {"NATS_SERVER": f"nats://127.0.0.1:{number}", "NATS_STARTUP_CONNECT_TIMEOUT_SECONDS": "5"}
        code, said = await bench.run("up", "--plane", "nats", **nowhere)
        assert code == 1
        return said, await bench.doctor("--plane", "nats", **nowhere)


@symptom("nats-credentials")
async def nats_credentials(bench: Bench) -> tuple[str, str]:
    wrong = bench.nats.environment() | {"NATS_AUTH_TOKEN": "wrong"}
    code, said = await bench.run("up", "--plane", "nats", **wrong)
    assert code == 1
    return said, await bench.doctor("--plane", "nats", **wrong)


@symptom("nats-server-missing")
async def nats_server_missing(bench: Bench) -> tuple[str, str]:
    code, said = await bench.run("up", "--nats-embedded", "--nats-server", bench.path)
    assert code == 1
    bench.patch.setenv("PATH", str(bench.path.parent))
    bench.patch.setattr("sysconfig.get_path", lambda name: str(bench.path.parent))
    with pytest.raises(NatsServerMissing) as caught:
        find_binary()
    return f"{said}\n{caught.value}", await bench.doctor_here(nats_embedded=True)


@symptom("port-taken")
async def port_taken(bench: Bench) -> tuple[str, str]:
    with port() as number:
        taken = {"DYN_TCP_RPC_PORT": str(number)}
        code, said = await bench.run("up", **taken)
        assert code == 1
        return said, await bench.doctor(**taken)


@symptom("port-blocked")
async def port_blocked(bench: Bench) -> tuple[str, str]:
    system = await bench.cluster.up(bench.path, plane="tcp")
    process = system.status().process("e.0")
    await system.pause("e.0")
    # It accepts nothing now: what is in its queue stays there, and the kernel drops whatever comes after that.
    with blocked(*Address.parse(process.address).host_port()):
        settings = NetworkSettings(ipc=False, connect_timeout_s=0.5)
        with pytest.raises(ConnectTimeout) as caught:
            await dial(process.address, system.namespace, settings)
        said = str(caught.value)
        doctor = await bench.doctor("-n", system.namespace)
    await system.resume("e.0")
    return said, doctor


@symptom("version-mismatch")
async def version_mismatch(bench: Bench) -> tuple[str, str]:
    system = await bench.cluster.up(bench.path, plane="tcp")
    bench.patch.setattr(handshake.Hello.__init__, "__defaults__", ((2, 0), ""))
    with pytest.raises(HandshakeRefused) as caught:
        await dial(system.status().process("e.0").address, system.namespace, NetworkSettings())
    return str(caught.value), await bench.doctor_here(namespace=system.namespace)


@symptom("limits-differ")
async def limits_differ(bench: Bench) -> tuple[str, str]:
    bench.path.write_text(f'{CONFIG}\n[network]\nmax_message_bytes = "1MiB"\nshrink_message_bytes = "1MiB"\n')
    system = await bench.cluster.up(bench.path, plane="tcp")
    with pytest.raises(TooLarge) as caught:
        await system.ref("echo", Echo).ask(Echo.hello, "x" * 2_000_000)
    differs = {"DYN_TCP_MAX_MESSAGE_SIZE": str(4 * 1024**2)}
    return str(caught.value), await bench.doctor("-n", system.namespace, **differs)


# -- parts


async def dial(address: str, namespace: str, settings: NetworkSettings) -> None:
    identity = Identity(node="stranger-1", name="stranger", namespace=namespace)
    network = NetworkManager(replace(settings, ipc=False), identity, _Nobody(), listen=False)
    try:
        await network.connect(address)
    finally:
        await network.close()


@contextmanager
def port(*, listening: bool = True) -> Iterator[int]:
    """A port that nobody else gets; connections to it are refused if nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        if listening:
            sock.listen()
        yield sock.getsockname()[1]


@contextmanager
def blocked(host: str, number: int) -> Iterator[None]:
    """Fill the queue of a listener that accepts nothing, until a connection is not made any more."""
    with ExitStack() as stack:
        in_vain = 0
        for _ in range(5000):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.5)
            try:
                sock.connect((host, number))
                in_vain = 0
            except TimeoutError:  # one alone may be a kernel that is too busy for its loopback
                in_vain += 1
            if in_vain == 3:
                break
        else:
            pytest.fail("the queue of the listener has no end")
        yield


def sections() -> dict[str, str]:
    """The symptoms of the page by their names."""
    symptoms, _, _ = PAGE.partition("## Other checks")
    found = re.findall(r"^## `([\w-]+)`\n(.*?)(?=^## |\Z)", symptoms, re.MULTILINE | re.DOTALL)
    return dict(found)


def patterns(section: str, language: str) -> list[str]:
    """The blocks of a section as regular expressions: ``{...}`` stands for anything within a line."""
    blocks = re.findall(rf"^```{language}\n(.*?)\n```$", section, re.MULTILINE | re.DOTALL)
    return [as_pattern(block) for block in blocks]


def as_pattern(text: str) -> str:
    """A regular expression for a text of the page; doctor aligns its columns by spaces."""
    words = [re.escape(word) for word in re.split(r" +", text)]
    return re.sub(r"\\\{\w+\\\}", ".+?", " +".join(words))


@pytest.mark.parametrize("name", sorted({*sections(), *SYMPTOMS}))
async def test_the_symptom_shows_what_the_page_says_and_doctor_recognises_it(
    cluster: Cluster, nats_server: NatsForTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert name in sections(), "it is produced, and the page does not have it"
    assert name in SYMPTOMS, "it is on the page, and nothing here produces it"
    monkeypatch.chdir(Path(__file__).parent)  # where the actors are
    path = tmp_path / "sick.toml"
    path.write_text(CONFIG)
    with warnings.catch_warnings():
        said, doctor = await SYMPTOMS[name](Bench(cluster, nats_server, path, monkeypatch))
    messages, lines = patterns(sections()[name], "message"), patterns(sections()[name], "doctor")
    assert messages
    assert lines
    for pattern in messages:
        assert re.search(pattern, said), f"{pattern}\nis not in\n{said}"
    for pattern in lines:
        assert re.search(f"(?m)^{pattern}$", doctor), f"{pattern}\nis no line of\n{doctor}"
    assert re.search(rf"(?m)^(problem|warning) +{name} ", doctor)


def test_the_page_has_every_check_of_doctor_and_no_other() -> None:
    sources = [ROOT / "supervisor" / name for name in ("doctor_checks.py", "doctor_nats_checks.py")]
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    checks = set(re.findall(r'Finding\(\s*"([\w-]+)"', text)) | set(re.findall(r'\bname = "([\w-]+)"', text))
    checks |= set(re.findall(r'name, mine = "([\w-]+)"', text)) | set(re.findall(r'else "(config)"', text))
    others = set(re.findall(r"^\| `([\w-]+)` \|", PAGE.partition("## Other checks")[2], re.MULTILINE))
    assert {*sections(), *others} == checks
