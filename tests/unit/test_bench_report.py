"""What ``callboard bench`` says of what it measured."""

import pytest
from click.testing import CliRunner

from callboard.bench.cli import bench, line_of, ratio_to_floor
from callboard.bench.measuring import percentile
from callboard.bench.rig import settings_for
from callboard.bench.run import Result
from callboard.bench.table import CASES
from callboard.bench.tables import number


def result(case, *values, skipped=""):
    return Result(case=case, plane="tcp", unit="us", values=values, skipped=skipped)


def test_the_value_of_a_case_is_its_median_between_its_extremes():
    line = result("ask_seq_p50", 3.0, 1.0, 2.00004).as_json()
    assert line == {
        "case": "ask_seq_p50", "plane": "tcp", "unit": "us", "n": 3, "value": 2.0, "min": 1.0, "max": 3.0, "reps": 3,
    }  # fmt: skip


def test_a_skipped_case_has_its_reason_and_no_value():
    line = result("failover", skipped="the memory plane has no processes").as_json()
    assert line == {
        "case": "failover", "plane": "tcp", "unit": "us", "skipped": "the memory plane has no processes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"), [(123456.7, "123,500"), (93.27, "93.27"), (0.45678, "0.4568"), (1000, "1,000")]
)
def test_numbers_have_four_digits_that_count(value, text):
    assert number(value) == text


def test_a_line_of_the_table_has_value_unit_and_spread():
    assert line_of(result("ask_seq_p50", 90.0, 100.0, 110.0)).split() == [
        "ask_seq_p50", "tcp", "100", "us", "(90", "..", "110)",
    ]  # fmt: skip
    assert line_of(result("failover", skipped="no")).split() == ["failover", "tcp", "skipped:", "no"]


def test_the_ratio_compares_with_the_floor_of_the_same_run():
    both = {"floor_zmq": result("floor_zmq", 80.0), "ask_seq_p50": result("ask_seq_p50", 120.0)}
    assert ratio_to_floor(both) == 1.5
    assert ratio_to_floor({"ask_seq_p50": both["ask_seq_p50"]}) == 0
    assert ratio_to_floor(both | {"floor_zmq": result("floor_zmq", skipped="no")}) == 0


def test_percentiles_are_values_that_were_measured():
    values = [float(n) for n in range(100)]
    assert percentile(values, 0.99) == 99.0
    assert percentile([1.0], 0.99) == 1.0


def test_tcp_is_measured_without_the_short_cut():
    assert not settings_for("tcp").ipc
    assert settings_for("ipc").ipc


def test_an_unknown_case_is_refused_with_the_nearest_name():
    done = CliRunner().invoke(bench, ["ask_265"])
    assert done.exit_code == 2
    assert "no case 'ask_265'; did you mean \"ask_256\"?" in done.output


def test_an_unknown_plane_is_refused_before_anything_is_measured():
    done = CliRunner().invoke(bench, ["--plane", "tpc"])
    assert done.exit_code == 2
    assert "invalid request plane mode 'tpc'" in done.output


def test_the_list_names_every_case():
    done = CliRunner().invoke(bench, ["--list"])
    assert [line.split()[0] for line in done.output.splitlines()] == list(CASES)
