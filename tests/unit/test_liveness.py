"""Stalled or frozen: questions without answers, and what the system says of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from callboard.supervisor.liveness import Health, Liveness, is_stopped, judge


def test_silence_counts_from_the_oldest_question_since_the_last_answer() -> None:
    liveness = Liveness()
    first = liveness.ask(10.0)
    liveness.ask(11.0)
    assert liveness.silent_s(12.0) == 2.0
    liveness.answer(first)
    assert liveness.silent_s(12.0) == 0.0
    liveness.ask(13.0)
    assert liveness.silent_s(13.5) == 0.5


def test_an_answer_twice_or_to_nothing_shows_no_life() -> None:
    liveness = Liveness()
    liveness.answer(liveness.ask(0.0))
    liveness.ask(1.0)
    liveness.answer(1)
    liveness.answer(99)
    assert liveness.silent_s(2.0) == 1.0


def test_our_own_pause_is_not_held_against_others() -> None:
    liveness = Liveness()
    liveness.ask(0.0)
    liveness.forgive()
    assert liveness.silent_s(100.0) == 0.0


def test_a_stopped_process_is_frozen_and_a_running_one_stalled_later() -> None:
    assert judge(0.0, 2.0, stopped=True) is Health.ALIVE
    assert judge(1.0, 2.0, stopped=True) is Health.FROZEN
    assert judge(1.9, 2.0, stopped=False) is Health.ALIVE
    assert judge(2.0, 2.0, stopped=False) is Health.STALLED


def test_the_system_says_whether_a_process_is_stopped() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not is_stopped(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while not is_stopped(child.pid):
            assert time.monotonic() < deadline
    finally:
        child.kill()
        child.communicate()
    assert not is_stopped(child.pid)
