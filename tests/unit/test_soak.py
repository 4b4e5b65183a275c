"""The soak would notice: what a ledger with a broken promise, or samples with a leak, are judged as."""

import random
import signal
from collections import Counter

import pytest

from callboard.testing.soak.chaos import Blow
from callboard.testing.soak.ledger import INNER, End, Event, Ledger, Outcome, Verb, read
from callboard.testing.soak.measures import TOLERANCES, Samples, drift
from callboard.testing.soak.mixed import Report
from callboard.testing.soak.verdict import Verdict, judge

MIB = 2**20


@pytest.fixture
def files(tmp_path):
    """A ledger of two workers and one caller in this process."""
    made = [
        Ledger(str(tmp_path), "runs", "w.0", 1),
        Ledger(str(tmp_path), "runs", "w.1", 1),
        Ledger(str(tmp_path), "calls", "here", 1),
    ]
    yield tmp_path, *made
    for ledger in made:
        ledger.close()


def complete(directory):
    return {author.pid for author, _ in read(directory)}


def test_a_ledger_that_keeps_every_promise_has_no_violation(files):
    directory, worker, _, calls = files
    for number, (verb, outcome, runs) in enumerate(
        [
            (Verb.ASK, Outcome.VALUE, 1), (Verb.ASK, Outcome.NEVER, 0), (Verb.ASK, Outcome.MAYBE, 0),
            (Verb.ASK, Outcome.MAYBE, 1), (Verb.ASK, Outcome.YES, 1), (Verb.ASK, Outcome.LEFT, 1),
            (Verb.TELL, None, 0), (Verb.TELL, None, 1), (Verb.TELL, Outcome.NEVER, 0), (Verb.AGAIN, Outcome.VALUE, 3),
        ],
        start=1,
    ):  # fmt: skip
        calls.write(Event.SENT, number, verb)
        for _ in range(runs):
            worker.write(Event.RUN, number, 0, 0 if verb is Verb.AGAIN else number)
            worker.write(Event.DONE, number, End.RETURNED)
        if outcome is not None:
            calls.write(Event.OUTCOME, number, outcome)
    verdict = judge(directory, complete=complete(directory))
    assert verdict.violations == []
    assert verdict.counts["ask maybe"] == 2


@pytest.mark.parametrize(
    ("verb", "outcome", "runs", "said"),
    [
        (Verb.ASK, Outcome.VALUE, 2, "ran 2 times instead of 1"),
        (Verb.ASK, Outcome.LEFT, 2, "ran 2 times instead of 1"),
        (Verb.TELL, None, 2, "ran 2 times instead of 1"),
        (Verb.ASK, Outcome.NEVER, 1, "ran 1 times instead of 0"),
        (Verb.TELL, Outcome.NEVER, 1, "ran 1 times instead of 0"),
        (Verb.AGAIN, Outcome.NEVER, 1, "failed"),
        (Verb.ASK, Outcome.VALUE, 0, "was answered VALUE and never ran"),
        (Verb.STREAM, Outcome.YES, 0, "was answered YES and never ran"),
        (Verb.ASK, None, 0, "had no outcome"),
        (Verb.STREAM, Outcome.WRONG, 1, "wrong"),
    ],
)
def test_a_broken_promise_is_named(files, verb, outcome, runs, said):
    directory, *workers, calls = files
    calls.write(Event.SENT, 1, verb)
    for worker in workers[:runs]:
        worker.write(Event.RUN, 1)
    if outcome is not None:
        calls.write(Event.OUTCOME, 1, outcome)
    assert said in "\n".join(judge(directory, complete=complete(directory)).violations)


def test_a_second_outcome_a_run_that_nobody_sent_and_a_second_inner_run_are_named(files):
    directory, worker, other, calls = files
    calls.write(Event.SENT, 1, Verb.ASK)
    for _ in range(2):
        calls.write(Event.OUTCOME, 1, Outcome.LEFT)
    worker.write(Event.RUN, 2)
    for ledger in (worker, other):
        ledger.write(Event.RUN, 1 | INNER)
    said = "\n".join(judge(directory).violations)
    assert "had two outcomes" in said
    assert "0x2 ran at w.0 and was never sent" in said
    assert "ran 2 times instead of 1: w.0 incarnation 1, w.1 incarnation 1" in said


def test_messages_that_ran_out_of_order_are_named_but_not_those_of_different_senders(files):
    directory, worker, _, calls = files
    sender, other = 1 << 40, 2 << 40
    for number_id, order in ((sender + 1, 1), (other + 1, 1), (sender + 3, 3), (sender + 2, 2)):
        calls.write(Event.SENT, number_id, Verb.TELL)
        worker.write(Event.RUN, number_id, 0, order)
    (said,) = judge(directory).violations
    assert f"{sender + 2:#x} (number 2) ran" in said


def test_the_time_that_a_handler_outlives_its_killed_caller_is_measured(files):
    directory, worker, _, calls = files
    calls.write(Event.SENT, 1, Verb.ASK)
    worker.write(Event.RUN, 1)
    worker.write(Event.DONE, 1, End.CANCELLED)
    ((caller, _), (_, records), _) = read(directory)
    begin, end = records[0].time_ns, records[1].time_ns
    death = Blow(caller.pid, signal.SIGKILL, begin + 1, begin + 1)
    assert judge(directory, [death]).outlived_ms == [(end - begin - 1) / 1e6]
    frozen = Blow(caller.pid, signal.SIGSTOP, begin, end)  # the worker: it is the same process here
    assert judge(directory, [death, frozen]).outlived_ms == []


def noisy(growth_bytes, seed):
    """A minute of samples: an allocator's steps, outliers, warm-up, and a leak of so much in all."""
    rng = random.Random(seed)
    return [
        60 * MIB
        + min(second, 10) * MIB
        + rng.choice((0, 0, 0.25, 0.5)) * MIB
        + (20 * MIB if rng.random() < 0.1 else 0)
        + growth_bytes * second / 60
        for second in range(60)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_flat_and_a_leak_of_twice_the_tolerance_is_not(seed):
    assert drift(noisy(0, seed)) < TOLERANCES["uss"] / 2
    assert drift(noisy(4 * TOLERANCES["uss"], seed)) > TOLERANCES["uss"]


def test_a_series_that_grows_is_named_with_its_values():
    samples = Samples("worker", 1)
    samples.series = {"tasks": [10.0 * n for n in range(16)], "cells": [1.0] * 16}
    report = Report(Verdict(), Counter({"wrong: a value": 1, "MailboxFull never": 3}), samples=[samples])
    wrong, growing = report.problems
    assert wrong == "wrong: a value"
    assert growing.startswith("worker: tasks grew by 80 (25 is noise): [0.0, 10.0")


def test_too_few_samples_are_no_proof():
    with pytest.raises(ValueError, match="7 samples; at least 8 are needed"):
        drift([1.0] * 7)
