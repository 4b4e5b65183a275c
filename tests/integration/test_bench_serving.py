"""``callboard bench index`` and ``bench routing`` measure what they say; how fast is not a test's affair."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from callboard.bench.cli import bench
from callboard.bench.index_shapes import SHAPES
from callboard.bench.routing_live import run_live
from callboard.serving.simulation.routing import ROUTINGS, RoutingTrial
from callboard.serving.simulation.settings import SimulatedSettings
from callboard.serving.simulation.trace import TraceSettings, make_trace

SMALL = ["routing", "--sessions", "6", "--engines", "2", "--rate", "20"]


def run(*words: str) -> Result:
    return CliRunner().invoke(bench, list(words))


def test_a_table_a_picture_and_a_part_of_a_document_come_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench:routing -->\n<!-- /bench:routing -->\nafter\n")
    done = run(*SMALL, "round-robin", "kv", "--plot", str(tmp_path / "images"), "--update", str(page))
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    assert [name for row in rows if (name := row[1].strip(" -"))] == ["routing", "round-robin", "kv"]
    assert "x 1.00" in text
    assert "</svg>" in (tmp_path / "images" / "routing.svg").read_text()


def test_options_of_the_router_can_be_set_and_are_checked() -> None:
    def lines(*words: str) -> list[str]:
        done = run(*SMALL, "kv", "kv, scale 1", "--json", *words)
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()

    plain, (given, _) = lines(), lines("--set", "prefill_load_scale=1")
    assert orjson.loads(given) == orjson.loads(plain[1]) | {"routing": "kv"}
    done = run(*SMALL, "kv", "--set", "prefill_lode_scale=1")
    assert done.exit_code == 2
    assert 'did you mean "prefill_load_scale"?' in done.output


def test_lines_say_all_that_was_measured() -> None:
    done = run(*SMALL, "kv", "oracle", "--json")
    assert done.exit_code == 0, done.output
    lines = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [line["routing"] for line in lines] == ["kv", "oracle"]
    assert {line["requests"] for line in lines} == {36}
    assert all(0 < line["hit_rate"] < 1 <= line["load_spread"] for line in lines)


def test_a_routing_or_a_shape_that_does_not_exist_is_named_with_its_likeliest() -> None:
    done = run("routing", "round-robbin")
    assert done.exit_code == 2
    assert 'did you mean "round-robin"?' in done.output
    done = run("index", "lnog")
    assert done.exit_code == 2
    assert 'did you mean "long"?' in done.output
    assert run("routing", "--list").output.count("\n") == len(ROUTINGS)
    assert run("index", "--list").output.count("\n") == len(SHAPES)


def test_the_index_is_measured_in_a_process_of_its_own() -> None:
    done = run("index", "long", "--blocks", "2048", "--reps", "1")
    assert done.exit_code == 0, done.output
    row = next(line for line in done.output.splitlines() if line.startswith("| long, 2,048"))
    assert len(row.split("|")) == 7
    if find_spec("dynamo") is None:
        assert "dynamo long, 2,048 blocks: not installed: pip install ai-dynamo-runtime" in done.output


@pytest.mark.parametrize("plane", ["tcp", "nats"])
async def test_a_trace_goes_through_real_processes(plane: str) -> None:
    trial = RoutingTrial(
        trace=TraceSettings(
            sessions=4,
            turns=3,
            sessions_per_s=100.0,
            system_tokens=(64,),
            user_tokens=24,
            answer_tokens=8,
            pause_s=0.01,
            per_token_s=0.0,
        ),
        engines=2,
        engine=SimulatedSettings(input="tokens", blocks=256, block_size=8, prefill_us_per_token=10),
    )
    trace = make_trace(trial.trace)
    result = await run_live("kv", trace, trial, plane)
    assert result.requests == len(trace) == 12
    assert 0 < result.hit_rate < 1
    # What was not in a cache was computed, and every token of an answer but the last one of each was.
    prompts = sum(arrival.prompt_tokens for arrival in trace)
    assert result.computed_tokens <= prompts + sum(arrival.answer_tokens for arrival in trace)
    assert result.mean_ttft_s <= result.p95_ttft_s
