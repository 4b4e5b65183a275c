"""What ``callboard bench peers`` and its kin make of lines: tables, targets, documents. Nothing is measured here."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from callboard.bench import compare, tables, targets
from callboard.bench.cli import bench
from callboard.bench.document import PART, NoParts, update
from callboard.bench.drivers import PEERS, pythons_of
from callboard.bench.growth import CURVES
from callboard.bench.lines import Line, NotALine, Results, read
from callboard.bench.report import parts, rewrite, text
from callboard.bench.targets import Bound, Target, Verdict


def line(peer, case, *values, plane="tcp", unit="1/s", at=None, skipped=""):
    if skipped:
        return Line(peer=peer, plane=plane, case=case, unit=unit, at=at, skipped=skipped)
    return Line.of(peer, plane, case, unit, values, at)


RUN = Results(
    [
        line("dynamo", "ask_256", 5000, 4000, 6000),
        line("callboard", "ask_256", 250_000),
        line("callboard", "ask_seq_p50", 100, unit="us"),
        line("dynamo", "ask_seq_p50", 200, unit="us"),
        line("callboard", "ask_256", 150_000, plane="nats"),
        line("dynamo", "ask_256", 4000, plane="nats"),
        line("ray", "ask_256", skipped="not installed: pip install ray"),
        line("dynamo", "tell", skipped="it has no messages without an answer"),
        line("callboard", "tell", 500_000),
        line("callboard", "actors_cpu", 4, at=1, unit="us"),
        line("callboard", "actors_cpu", 5, at=10_000, unit="us"),
    ]
)


def verdicts(results, *wanted):
    return [one.verdict for one in targets.check(results, wanted)]


# -- lines


def test_lines_survive_being_written_and_read():
    written = "\n".join(json.dumps(one.as_json()) for one in RUN.lines)
    assert list(read(written)) == RUN.lines


def test_lines_of_the_plain_command_are_callboards():
    (one,) = read(
        '{"case": "tell", "plane": "tcp", "unit": "1/s", "value": 3, "min": 1, "max": 5, "reps": 3}'
    )
    assert (one.peer, one.value, one.low, one.high, one.reps) == ("callboard", 3.0, 1.0, 5.0, 3)


@pytest.mark.parametrize(
    ("row", "why"),
    [("{", "unexpected end"), ("{}", "it has no 'plane'"), ("[]", "attribute"), ("\n3", "line 2")],
)
def test_a_line_of_something_else_is_named(row, why):
    with pytest.raises(NotALine, match=why):
        list(read(row))


def test_of_two_lines_of_the_same_case_the_later_counts():
    results = Results([line("ray", "tell", 1), line("ray", "tell", 2)])
    assert results.value("ray", "tcp", "tell") == 2


def test_callboard_comes_first_and_curves_are_no_contestants():
    assert RUN.contestants() == [
        ("callboard", "tcp"), ("callboard", "nats"), ("dynamo", "tcp"), ("dynamo", "nats"), ("ray", "tcp"),
    ]  # fmt: skip
    assert "actors_cpu" not in RUN.cases()


# -- ratios and targets


def test_a_ratio_is_callboard_over_the_peer_on_the_same_plane():
    assert RUN.ratio("dynamo", "tcp", "ask_256") == 50
    assert RUN.ratio("dynamo", "nats", "ask_256") == 37.5
    assert RUN.ratio("ray", "tcp", "ask_256") is None


def test_targets_are_reached_missed_or_not_measured():
    least = Target(case="ask_256", bound=Bound.AT_LEAST, limit=40, peer="dynamo")
    most = Target(case="ask_seq_p50", bound=Bound.AT_MOST, limit=1 / 3, peer="dynamo")
    absolute = Target(case="tell", bound=Bound.AT_LEAST, limit=600_000, unit="1/s")
    unknown = Target(case="ask_256", bound=Bound.AT_LEAST, limit=1, peer="ray")
    found = verdicts(RUN, least, most, absolute, unknown)[:4]
    assert found == [Verdict.REACHED, Verdict.MISSED, Verdict.MISSED, Verdict.UNKNOWN]
    assert [one.text for one in (least, most, absolute)] == [
        "≥ 40 x dynamo", "≤ 1/3 x dynamo", "≥ 600,000 1/s",
    ]  # fmt: skip


def test_a_limit_itself_is_reached():
    at_limit = Results([line("callboard", "startup", 1.0, unit="s")])
    assert verdicts(at_limit, Target(case="startup", bound=Bound.AT_MOST, limit=1, unit="s")) == [
        Verdict.REACHED
    ]


def test_a_curve_is_flat_if_its_end_costs_little_more_than_its_lowest_point():
    (flat,) = [one for one in targets.check(RUN, ()) if one.what.startswith("actors_cpu")]
    assert (flat.what, flat.found, flat.verdict) == ("actors_cpu, 1 to 10,000", 1.25, Verdict.REACHED)
    steep = Results([line("callboard", "queued_cpu", cost, at=cost, unit="us") for cost in (9, 2, 4)])
    assert [one.verdict for one in targets.check(steep, ())] == [Verdict.MISSED]


def test_every_target_is_of_a_case_and_a_peer_that_there_are():
    assert [one for one in targets.TARGETS if not compare.is_case(one.case)] == []
    rivals = [one for one in targets.TARGETS if one.peer]
    assert [one for one in rivals if one.plane not in PEERS[one.peer].transports] == []
    assert [one for one in rivals if one.case in compare.OWN_ONLY] == []


# -- tables and documents


def test_the_table_has_values_with_ratios_in_brackets_and_no_column_for_who_was_skipped():
    head, _, *rows = tables.comparison(RUN).splitlines()
    cells = [cell.strip() for cell in head.strip("|").split("|")]
    assert cells == ["case (unit, better)", "callboard tcp", "callboard nats", "dynamo tcp", "dynamo nats"]
    assert [cell.strip() for cell in rows[0].strip("|").split("|")] == [
        "ask_256 (1/s, higher)", "250,000", "150,000", "5,000 (x 50)", "4,000 (x 38)",
    ]  # fmt: skip
    assert len({len(row) for row in tables.comparison(RUN).splitlines()}) == 1


def test_what_was_skipped_is_listed_with_its_reason_once():
    assert tables.skipped(RUN).splitlines() == [
        "- ray tcp: not installed: pip install ray",
        "- dynamo tcp, tell: it has no messages without an answer",
    ]


def test_growth_has_a_row_per_plane_and_a_column_per_point():
    rows = [row.split() for row in tables.growth(RUN).splitlines()]
    assert rows[0] == ["|", "actors_cpu", "(us)", "|", "1", "|", "10,000", "|"]
    assert rows[2] == ["|", "tcp", "|", "4", "|", "5", "|"]


def test_the_text_leaves_out_targets_that_were_not_measured():
    assert "not reached" in text(RUN)
    assert "not measured" not in text(RUN)
    assert "not measured" in parts(RUN)["targets"]


def test_only_what_is_between_the_markers_is_rewritten():
    old = "a\n<!-- bench:run -->\nold\n<!-- /bench:run -->\nb\n<!-- bench:growth -->\nkept\n<!-- /bench:growth -->\n"
    new = update(old, {"run": "new", "growth": ""}, "page.md")
    assert new == old.replace("old", "new")
    assert update(new, {"run": "new"}, "page.md") == new


def test_a_document_without_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(NoParts, match=r"page\.md has no generated parts; put `<!-- bench:targets -->`"):
        rewrite(page, RUN, "")
    assert page.read_text() == "nothing"


# -- what is to be measured


def test_cases_that_are_measured_together_are_known():
    assert compare.measurement_of("ask_seq_p999") == "ask_seq"
    assert compare.measurement_of("pipeline_32") == compare.measurement_of("first_item") == "pipeline"
    assert compare.measurement_of("ask_17") == "ask_17"
    assert [compare.is_case(name) for name in ("ask_17", "ask_seq_p90", "ask_x", "tell")] == [
        True,
        True,
        False,
        True,
    ]
    assert [compare.unit_of(name) for name in ("ask_17", "ask_seq_p90", "echo_1mb")] == ["1/s", "us", "MB/s"]


def test_peers_are_on_the_planes_that_were_asked_for_or_on_their_own():
    assert compare.contestants(["dynamo", "xoscar"], ["tcp"]) == [
        ("callboard", "tcp"), ("dynamo", "tcp"), ("xoscar", "ipc"),
    ]  # fmt: skip


def test_interpreters_are_given_by_the_name_of_the_peer():
    assert pythons_of((f"ray={sys.executable}",)) == {"ray": sys.executable}
    with pytest.raises(ValueError, match="'rya=x' is not NAME=PATH with one of these names: dynamo, ray"):
        pythons_of(("rya=x",))
    with pytest.raises(ValueError, match="'/nowhere', the interpreter of ray, cannot be run"):
        pythons_of(("ray=/nowhere",))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["peers", "ask_x"], "no case 'ask_x'"),
        (["peers", "tell", "--peer", "rai"], "no peer 'rai'; did you mean \"ray\"?"),
        (["peers", "tell", "--peer-python", "ray"], "--peer-python: 'ray' is not NAME=PATH"),
        (["peers", "tell", "--plane", "tpc"], "invalid request plane mode 'tpc'"),
        (["growth", "actor"], "no curve 'actor'; did you mean \"actors\"?"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(words, message):
    done = CliRunner().invoke(bench, words)
    assert (done.exit_code, message in done.output) == (2, True), done.output


def test_a_report_is_made_of_saved_lines(tmp_path):
    saved, page = tmp_path / "lines.jsonl", tmp_path / "page.md"
    saved.write_text("\n".join(json.dumps(one.as_json()) for one in RUN.lines))
    page.write_text("<!-- bench:comparison -->\n<!-- /bench:comparison -->\n")
    done = CliRunner().invoke(bench, ["report", str(saved), "--update", str(page)])
    assert done.exit_code == 0, done.output
    assert "5,000 (x 50)" in done.output
    assert tables.comparison(RUN) in page.read_text()


def test_a_report_of_something_else_names_the_file_and_the_line(tmp_path):
    saved = tmp_path / "lines.jsonl"
    saved.write_text("\n{}")
    done = CliRunner().invoke(bench, ["report", str(saved)])
    assert done.exit_code == 2
    assert "lines.jsonl: line 2 is not one of `callboard bench --json`: it has no 'plane'" in done.output


def test_plots_without_matplotlib_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(bench, ["peers", "tell", "--plot", str(tmp_path / "images")])
    assert done.exit_code == 1
    assert "plots need matplotlib, which is not installed: pip install 'callboard[bench]'" in done.output
    assert not (tmp_path / "images").exists()


def test_help_lists_what_can_be_measured_and_cases_need_no_name():
    assert "peers" in CliRunner().invoke(bench, ["--help"]).output
    assert (
        CliRunner().invoke(bench, ["--list"]).output == CliRunner().invoke(bench, ["cases", "--list"]).output
    )


# -- pictures, and the page


def test_pictures_are_drawn_of_what_was_measured_and_the_same_lines_give_the_same_files(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need callboard[bench]")
    from callboard.bench.plots import draw

    more = [line("callboard", "ask_1", 9000), line("callboard", "ask_seq_p99", 120, unit="us")]
    results = Results([*RUN.lines, *more])
    first, second = (draw(results, tmp_path / name) for name in ("first", "second"))
    names = ["throughput.svg", "latency.svg", "growth_actors.svg"]
    assert [file.name for file in first] == names
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert "callboard tcp" in first[0].read_text()


def test_the_page_has_a_place_for_every_part_and_links_pictures_that_there_are():
    page = (Path(__file__).parents[2] / "docs/performance.md").read_text(encoding="utf-8")
    assert {name for _, name, *_ in PART.findall(page)} == {*parts(RUN, "facts"), "costs"}
    pictures = re.findall(r"\]\((images/[^)]+)\)", page)
    assert len(pictures) == 2 + len(CURVES)
    assert [name for name in pictures if not (Path(__file__).parents[2] / "docs" / name).exists()] == []
