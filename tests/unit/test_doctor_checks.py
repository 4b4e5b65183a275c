"""What `callboard doctor` makes of what it has seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from callboard.supervisor.doctor_checks import CHECKS, config_findings, descriptors_needed, examine
from callboard.supervisor.doctor_facts import (
    Facts,
    Finding,
    Level,
    NatsFacts,
    NatsStage,
    PeerFacts,
    PortFacts,
    Reach,
    SystemFacts,
)
from callboard.supervisor.spec import ActorSpec, Config, EventPlane, ProcessSpec
from callboard.supervisor.status import Announcement, State, SystemStatus
from callboard.transports.durable import DurablePolicy
from callboard.transports.settings import NetworkSettings

NATS = NatsFacts(
    where="nats://h:4222",
    stage=NatsStage.DONE,
    version="2.15.1",
    max_payload_bytes=1024**2,
    below="callboard.serve",
    jetstream=True,
    ahead_s=0.1,
    within_s=0.01,
)


def config(plane: str = "tcp", **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "namespace": "serve",
        "actors": (ActorSpec(name="a", class_path="m:A"),),
        "processes": (),
        "network": NetworkSettings(request_plane=plane),
    }
    return Config(**settings | changes)


def facts(**changes: Any) -> Facts:
    settings: dict[str, Any] = {
        "file": "serve.toml",
        "version": "1.2.3",
        "protocol": "1.0",
        "config": config(),
        "processes": 2,
        "soft_descriptors": 1024,
        "hard_descriptors": 4096,
    }
    return Facts(**settings | changes)


def running(plane: str = "tcp", *, namespace: str = "serve", **changes: Any) -> SystemFacts:
    settings: dict[str, Any] = {
        "namespace": namespace,
        "plane": plane,
        "event_plane": "zmq",
        "insecure": False,
        "pid": 1,
        "state": State.READY,
        "started_at_s": 0.0,
        "directory": "/run/x",
        "processes": (),
        "version": "1.2.3",
        "protocol": "1.0",
    }
    network = changes.pop("settings", NetworkSettings(request_plane=plane))
    return SystemFacts(directory="/run/x", status=SystemStatus(**settings | changes), settings=network)


def found(seen: Facts, check: str) -> Finding:
    """The one finding of a check."""
    (finding,) = [finding for finding in examine(seen) if finding.check == check]
    return finding


def test_a_healthy_system_has_one_line_per_check_and_no_problem() -> None:
    seen = facts(
        config=config("nats"),
        mine=running("nats"),
        nats=NATS,
        peers=(PeerFacts(process="a.0", address="nats://p.serve._node.x", reach=Reach.ANSWERS),),
    )
    findings = examine(seen)
    assert {finding.level for finding in findings} == {Level.OK}
    assert (
        len(findings) == len({finding.check for finding in findings}) == len(CHECKS) - 2
    )  # none is embedded, and NATS is used


def test_an_event_plane_that_nobody_knows_or_that_is_not_in_use_is_told() -> None:
    assert found(facts(config=config("tcp")), "event-plane").level is Level.OK
    said = "DYN_EVENT_PLANE: invalid event plane 'x'; falling back to zmq"
    finding = found(facts(config=config("tcp"), warnings=(said,)), "event-plane")
    assert (finding.level, finding.text) == (Level.WARNING, said)
    differs = found(facts(config=config("tcp", event_plane=EventPlane.NONE), mine=running()), "event-plane")
    assert differs.level is Level.PROBLEM
    assert "travel over zmq" in differs.text
    assert differs.text.endswith("says none")
    assert config_findings(["a.toml:1  invalid event plane 'x'"])[0].check == "event-plane"


def test_every_problem_and_every_warning_says_what_to_do() -> None:
    """Each of the sights below is bad in every way that it can be."""
    for seen in (
        facts(
            config=config("nats", event_plane=EventPlane.JETSTREAM),
            warnings=("DYN_REQUEST_PLANE: invalid request plane mode 'x'",),
            mine=running("tcp", version="1.0"),
            others=(running(), SystemFacts(directory="/run/y", error="frozen")),
            nats=replace(NATS, version="2.9.0", jetstream=False, ahead_s=-9.0),
            soft_descriptors=10,
            nats_embedded=True,
            nats_server_error="no nats-server is installed; pip install it",
            ports=(PortFacts(user="actor.a", host="127.0.0.1", port=80, holder="process 7"),),
            peers=tuple(
                PeerFacts(process="a", address="tcp://h:1", reach=reach, text="why")
                for reach in Reach
                if reach is not Reach.ANSWERS
            ),
        ),
        *(
            facts(config=config("nats"), nats=NatsFacts(where="nats://h:1", stage=stage, error="why"))
            for stage in NatsStage
            if stage is not NatsStage.DONE
        ),
    ):
        bad = [finding for finding in examine(seen) if finding.level is not Level.OK]
        assert bad
        assert [finding for finding in bad if not finding.do] == []


@pytest.mark.parametrize(
    ("ahead_s", "within_s", "level"),
    [(0.9, 0.0, Level.OK), (1.1, 0.0, Level.WARNING), (-1.1, 0.0, Level.WARNING), (1.4, 0.5, Level.OK)],
)
def test_clocks_that_certainly_differ_by_more_than_a_second_are_told(
    ahead_s: float, within_s: float, level: Level
) -> None:
    nats = replace(NATS, ahead_s=ahead_s, within_s=within_s)
    finding = found(facts(config=config("nats"), nats=nats), "clock")
    assert finding.level is level
    if level is Level.WARNING:
        assert ("ahead of ours" if ahead_s > 0 else "behind ours") in finding.text


@pytest.mark.parametrize(
    ("version", "event_plane", "level"),
    [
        ("2.14.0", EventPlane.ZMQ, Level.OK),
        ("3.0.0-RC.1", EventPlane.JETSTREAM, Level.OK),
        ("2.13.9", EventPlane.JETSTREAM, Level.WARNING),
        ("2.11.0", EventPlane.JETSTREAM, Level.WARNING),
        ("2.10.22", EventPlane.JETSTREAM, Level.PROBLEM),
        ("2.10.22", EventPlane.ZMQ, Level.WARNING),
        ("?", EventPlane.JETSTREAM, Level.PROBLEM),
    ],
)
def test_an_old_server_is_a_problem_for_what_it_cannot_do(
    version: str, event_plane: EventPlane, level: Level
) -> None:
    seen = facts(config=config("nats", event_plane=event_plane), nats=replace(NATS, version=version))
    assert found(seen, "nats-version").level is level


def test_jetstream_matters_where_something_is_stored() -> None:
    off = replace(NATS, jetstream=False)
    assert found(facts(config=config("nats"), nats=off), "jetstream-off").level is Level.OK
    durable = ActorSpec(name="a", class_path="m:A", durable=DurablePolicy())
    for stored in (config("nats", event_plane=EventPlane.JETSTREAM), config("nats", actors=(durable,))):
        assert found(facts(config=stored, nats=off), "jetstream-off").level is Level.PROBLEM


def test_jetstream_that_is_not_permitted_is_told_from_one_that_is_off() -> None:
    nats = replace(NATS, jetstream=False, jetstream_denied="Permissions Violation for $JS.API.INFO")
    finding = found(
        facts(config=config("nats", event_plane=EventPlane.JETSTREAM), nats=nats), "jetstream-off"
    )
    assert finding.level is Level.PROBLEM
    assert "is not permitted to us: Permissions Violation" in finding.text
    assert '"$JS.API.>"' in finding.do
    assert "--jetstream" not in finding.do


def test_who_may_not_talk_in_the_namespace_is_told_what_to_permit() -> None:
    seen = facts(config=config("nats"), nats=replace(NATS, denied="Permissions Violation"))
    finding = found(seen, "nats-permissions")
    assert (finding.level, '"callboard.serve.>"' in finding.do) == (Level.PROBLEM, True)
    assert [entry for entry in examine(seen) if entry.check in ("jetstream-off", "clock")] == []


def test_nats_of_what_runs_is_judged_beside_that_of_file_and_environment() -> None:
    refused = NatsFacts(where="nats://h:4222", stage=NatsStage.CREDENTIALS, error="authorization violation")
    seen = facts(config=config("nats"), mine=running("nats"), nats=refused, nats_running=NATS)
    findings = [entry for entry in examine(seen) if entry.check == "nats-credentials"]
    assert [(entry.level, entry.text.partition(", ")[0]) for entry in findings] == [
        (Level.PROBLEM, "by file and environment"),
        (Level.OK, "by the settings of the running system"),
    ]


def test_processes_behind_a_nats_that_is_gone_are_not_called_dead() -> None:
    gone = NatsFacts(where="nats://h:1", stage=NatsStage.CONNECT, error="why")
    peers = tuple(
        PeerFacts(process=f"a.{i}", address=f"nats://p.serve._node.{i}", reach=Reach.FAILED) for i in (0, 1)
    )
    seen = facts(config=config("nats"), mine=running("nats"), nats=gone, nats_running=gone, peers=peers)
    finding = found(seen, "port-blocked")
    assert (finding.level, finding.text.partition(",")[0]) == (
        Level.WARNING,
        "2 running processes cannot be reached from here",
    )


def test_a_small_payload_is_no_problem_and_is_explained() -> None:
    finding = found(facts(config=config("nats"), nats=NATS), "nats-payload")
    assert finding.level is Level.OK
    assert "messages of up to 33,554,432 bytes travel in pieces" in finding.text


def test_settings_in_the_environment_of_processes_are_told_to_have_no_effect() -> None:
    groups = (
        ProcessSpec(name="one", actors=("a",), env={"DYN_TCP_POOL_SIZE": "9", "OTHER": "x"}),
        ProcessSpec(name="two", actors=("b",), env={"DYN_TCP_POOL_SIZE": "8", "DYN_REQUEST_PLANE": "NATS"}),
    )
    findings = [f for f in examine(facts(config=config(processes=groups))) if f.check == "process-env"]
    assert [(f.text.partition(" ")[0], f.level) for f in findings] == [
        ("DYN_TCP_POOL_SIZE", Level.WARNING),
        ("DYN_REQUEST_PLANE", Level.PROBLEM),
    ]
    assert "process.one, process.two has no effect" in findings[0].text
    assert all("cannot differ" in finding.text for finding in findings)
    same = (replace(groups[1], env={"DYN_REQUEST_PLANE": "TCP"}),)
    assert found(facts(config=config(processes=same)), "process-env").level is Level.WARNING


def test_a_running_system_on_another_nats_is_a_mismatch_unless_it_brings_its_own() -> None:
    elsewhere = NetworkSettings(request_plane="nats", nats={"servers": ["nats://ann:pw@localhost:9"]})  # type: ignore[arg-type]
    finding = found(facts(config=config("nats"), mine=running("nats", settings=elsewhere)), "plane-mismatch")
    assert finding.level is Level.PROBLEM
    assert "nats://ann:***@localhost:9" in finding.text
    own = running("nats", settings=elsewhere, announcements=(Announcement(actor="nats-server", text="here"),))
    assert found(facts(config=config("nats"), mine=own), "plane-mismatch").level is Level.OK


def test_versions_are_compared() -> None:
    assert found(facts(mine=running()), "version-mismatch").level is Level.OK
    assert found(facts(mine=running(version="1.2.2")), "version-mismatch").level is Level.WARNING
    assert found(facts(mine=running(version="", protocol="")), "version-mismatch").level is Level.WARNING
    other = found(facts(mine=running(protocol="2.0")), "version-mismatch")
    assert (other.level, "protocol version 2.0, this command 1.0" in other.text) == (Level.PROBLEM, True)


def test_a_port_that_the_system_itself_holds_is_fine() -> None:
    port = PortFacts(user="actor.a", host="127.0.0.1", port=80, holder="process 7", is_ours=True)
    assert found(facts(ports=(port,)), "port-taken").level is Level.OK


def test_the_limit_of_open_files_grows_with_the_processes_that_talk() -> None:
    assert descriptors_needed(config(), 100) > descriptors_needed(config(), 10)
    assert descriptors_needed(config("nats"), 100) == descriptors_needed(config("nats"), 10)
    needed = descriptors_needed(config(), 2)
    assert found(facts(soft_descriptors=needed), "descriptors").level is Level.OK
    low = found(facts(soft_descriptors=needed - 1), "descriptors")
    assert (low.level, low.do) == (Level.PROBLEM, f"ulimit -n {needed} before `callboard up`")
    assert "hard limit" in found(facts(soft_descriptors=9, hard_descriptors=9), "descriptors").do


def test_mistakes_of_a_config_are_findings_too() -> None:
    findings = config_findings(["a.toml:1  request_plane: invalid request plane mode", "a.toml:2  else"])
    assert [(f.check, f.level) for f in findings] == [
        ("invalid-mode", Level.PROBLEM),
        ("config", Level.PROBLEM),
    ]
