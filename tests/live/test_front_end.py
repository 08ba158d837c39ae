"""How long requests need from the API server's stamp to the scheduler, read off the steps that they made or missed."""

from __future__ import annotations

import numpy as np
import pytest

from harness.live.front_end import entry_delay

ROW = np.dtype([("start", "f8"), ("seconds", "f8"), ("waiting", "i4")])


def served(
    stamps: np.ndarray, delay: np.ndarray, seconds: float, pause: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """When an always busy engine with steps of `seconds` schedules requests that take `delay` to reach it."""
    starts = np.arange(0.0, stamps.max() + 1.0, seconds + pause)
    steps = np.zeros(len(starts), ROW)
    steps["start"], steps["seconds"] = starts, seconds
    return starts[np.searchsorted(starts, stamps + delay)], steps


@pytest.mark.parametrize("pause", [0.0, 0.0003])
def test_a_busy_engine_tells_the_delay_by_the_steps_that_were_missed(pause: float) -> None:
    rng = np.random.default_rng(0)
    stamps = np.sort(rng.uniform(1.0, 60.0, 4000))
    delay = rng.exponential(0.002, len(stamps))
    scheduled, steps = served(stamps, delay, 0.010, pause)
    assert entry_delay(stamps, scheduled, steps) == pytest.approx(0.002, abs=0.0003)


def test_without_delay_the_step_under_way_is_none() -> None:
    stamps = np.sort(np.random.default_rng(1).uniform(1.0, 9.0, 500))
    scheduled, steps = served(stamps, np.zeros(500), 0.012)
    assert entry_delay(stamps, scheduled, steps) == 0.0


def test_an_idle_engine_schedules_at_once() -> None:
    steps = np.zeros(3, ROW)
    steps["start"], steps["seconds"] = [0.0, 1.004, 2.002], 0.01
    found = entry_delay(np.array([1.0, 2.0]), np.array([1.004, 2.002]), steps)
    assert found == pytest.approx(0.003)


def test_requests_that_queue_for_room_and_those_never_scheduled_do_not_count() -> None:
    steps = np.zeros(4, ROW)
    steps["start"], steps["seconds"], steps["waiting"] = [0.0, 0.01, 0.02, 1.0], 0.01, [0, 5, 5, 0]
    assert entry_delay(np.array([0.005]), np.array([0.02]), steps) == 0.0
    assert entry_delay(np.array([0.5]), np.array([np.nan]), steps) == 0.0
