"""What a trainer beside the server takes from its steps: known factors come back, other causes are not blamed on it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness.contract import Event
from harness.latency.recorded import fit_steps
from harness.latency.recorded_steps import TRAINING, step_rows
from harness.latency.recorded_trainer import Interference, Working, interference, working
from harness.runlog import CellWriter, RunWriter, read_run
from tests.latency.steplog import BLOCK, cost, step_log

WORKS_S = 3.0
"""It works and rests in turns of so long."""


def beside(factor: float, seed: int, noise: float = 0.05, ks: tuple[int, ...] = (0, 3)) -> pd.DataFrame:
    """The log of an arm whose steps take `factor` times as long while a trainer works."""
    frame = step_log(ks, 3000, seed, noise).frame
    at = frame["start"] + frame["seconds"] / 2
    training = (at // WORKS_S % 2).to_numpy()
    seconds = frame["seconds"] * (1.0 + (factor - 1.0) * training)
    start = np.concatenate([[0.0], np.cumsum(seconds)[:-1]])
    return frame.assign(seconds=seconds, start=start, **{TRAINING: training})


def found_in(*frames: pd.DataFrame) -> Interference:
    return interference(step_rows(frames, [True] * len(frames), BLOCK))


def test_a_known_slowdown_comes_back() -> None:
    found = found_in(beside(1.12, 0), beside(1.12, 1))
    assert found.slowdown == pytest.approx(0.12, abs=0.015)
    assert found.factor == 1.0 + found.slowdown
    assert 0.0 < found.error < 0.02
    assert "measured: a step takes 1.1" in found.text()


def test_longer_pauses_are_slowdown_too() -> None:
    """Steps as long as ever, but the engine's loop between them waits a tenth of a step longer."""
    frame = beside(1.0, 0)
    waits = 0.1 * frame["seconds"] * frame[TRAINING]
    found = found_in(frame.assign(start=frame["start"] + np.concatenate([[0.0], np.cumsum(waits)[:-1]])))
    assert found.slowdown == pytest.approx(0.1, abs=0.015)


def test_one_factor_for_all_sizes_is_right_in_the_sum_of_seconds() -> None:
    """Long steps suffer more: the factor is theirs more than that of the many short ones."""
    frame = beside(1.0, 0, noise=0.01, ks=(3,))
    decoding, works = frame["prefill_tokens"] == 0, frame[TRAINING] > 0
    long = frame["batch"] > 10
    slowed = frame["seconds"] * np.where(decoding & long & works, 1.3, 1.0)
    seen = decoding & works
    true = slowed[seen].sum() / frame["seconds"][seen].sum()
    start = np.concatenate([[0.0], np.cumsum(slowed)[:-1]])
    found = found_in(frame.assign(seconds=slowed, start=start))
    assert found.slowdown == pytest.approx(true - 1.0, abs=0.01)
    assert found.slowdown > 0.3 * long[seen].mean() + 0.01, "by their seconds, not their number"


def test_without_one_none_is_made_up() -> None:
    found = found_in(beside(1.0, 2), beside(1.0, 3))
    assert found.factor == 1.0
    assert abs(found.slowdown) < 3 * found.error
    assert found.text().endswith("taken as 1")


def test_a_slow_arm_is_not_blamed_on_a_trainer_that_never_rests() -> None:
    slow = step_log((0, 3), 1500, 4, 0.05).frame
    slow = slow.assign(seconds=slow["seconds"] * 1.3, start=slow["start"] * 1.3, **{TRAINING: 1.0})
    quick = step_log((0, 3), 1500, 5, 0.05).frame
    assert found_in(slow, quick) == Interference()
    assert Interference().factor == 1.0


def test_the_fit_is_of_the_server_alone() -> None:
    """Steps are priced as with the trainer at rest, and the factor is told beside them."""
    quiet = step_log((0, 3), 3000, 6, 0.02)
    model = fit_steps([beside(1.2, 7, 0.02), quiet.frame], [True, True], "log", BLOCK)
    assert model.interference == pytest.approx(1.2, abs=0.02)
    ratio = [model.predict(shape) / cost(shape) for shape in quiet.shapes[200:1200:10]]
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("window", "shares"), [(1.0, [1.0, 0.5, 0.0, 0.0]), (0.0, [1.0, 0.5, 0.0, 0.0])])
def test_share_of_a_stretch(window, shares) -> None:
    """Of the second around a short step; of the step itself where the log is exact."""
    working = Working(np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 10.0]), window)
    start = np.array([5.0, 9.9, 15.0, 99.0])
    assert working.share(start, np.full(4, 0.2)) == pytest.approx(shares)


def test_only_an_exact_log_tells_short_stretches_apart() -> None:
    times, seconds = np.array([1.0, 1.1, 1.2, 1.3]), np.array([0.0, 0.1, 0.1, 0.2])
    at, long = np.array([1.02, 1.12]), np.full(2, 0.05)
    assert Working(times, seconds).share(at, long) == pytest.approx([1.0, 0.0])
    assert Working(times, seconds, 1.0).share(at, long) == pytest.approx([0.2, 0.2])


def log_of(path, *events: Event):
    with RunWriter(path, {"mode": "live", "scenario": "t", "seeds": [0], "arms": {"a": {}}}) as run:
        with CellWriter(run.parts, "a", 0) as cell:
            cell.events(list(events))
        run.merge()
    return read_run(path)


def test_a_live_log_says_when_it_worked(tmp_path) -> None:
    first = Event(4.0, "trained", {"spans": [[1.0, 2.0], [3.0, 3.5]]})
    log = log_of(tmp_path / "run", first, Event(9.0, "trained", {"spans": [[8.0, 9.0]]}))
    found = working(log, "a", 0)
    assert found is not None
    assert found.share(np.array([1.0, 2.0, 2.5, 8.5, 9.0]), np.ones(5)).tolist() == [1.0, 0.0, 0.5, 0.5, 0.0]


def test_other_logs_count_steps_at_ticks(tmp_path) -> None:
    ticks = [Event(10.0 * n, "tick", {"trainer": [n, n, 0, None]}) for n in range(4)]
    found = working(log_of(tmp_path / "run", *ticks, Event(30.0, "trainer", {"busy_seconds": 9.0})), "a", 0)
    assert found is not None
    assert found.seconds.tolist() == pytest.approx([0.0, 3.0, 6.0, 9.0])
