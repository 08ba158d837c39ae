"""Was the machine steady? Known step times, seed against seed."""

from __future__ import annotations

import numpy as np
import pytest

from harness.compare import summarise
from harness.compare.drift import FEWEST, UNSTEADY, step_drift, unsteady
from harness.runlog import CellWriter, RunWriter, read_run
from reports.facts import machine_facts
from tests.factories import write_run


def write(path, cells):
    """`cells`: (arm, seed) -> rows of (batch, k, seconds, prefill tokens)."""
    arms, seeds = dict.fromkeys(a for a, _ in cells), sorted({s for _, s in cells})
    info = {"mode": "live", "scenario": "t", "seeds": seeds, "arms": {a: {} for a in arms}}
    with RunWriter(path, info) as writer:
        for (arm, seed), rows in cells.items():
            batch, k, seconds, prefill = (np.array(column) for column in zip(*rows, strict=True))
            zeros = np.zeros(len(rows), dtype=int)
            with CellWriter(writer.parts, arm, seed) as cell:
                cell.steps(
                    {
                        "start": np.cumsum(seconds), "seconds": seconds, "batch": batch, "k": k,
                        "prefill_tokens": prefill, "output_tokens": batch, "offered": zeros, "accepted": zeros,
                        "running": batch, "waiting": zeros, "kv_blocks": zeros, "drafter_version": zeros,
                        "verifier_version": zeros,
                    }
                )  # fmt: skip
        writer.merge()
    return read_run(path)


def steps(batch: int, seconds: float, n: int = FEWEST, k: int = 0, prefill: int = 0):
    return [(batch, k, seconds, prefill)] * n


def test_equal_steps_are_compared_and_others_are_not(tmp_path):
    """Steps of another batch, of another K, with prompts, or too few of them, say nothing."""
    only_here = steps(7, 9.0) + steps(2, 9.0, k=3) + steps(1, 9.0, prefill=5) + steps(4, 9.0, n=FEWEST - 1)
    run = write(
        tmp_path / "run",
        {
            ("none", 0): steps(1, 0.010) + steps(2, 0.020) + steps(4, 0.010, n=FEWEST - 1),
            ("none", 1): steps(1, 0.012) + steps(2, 0.024) + only_here,
            ("static:3", 0): steps(1, 0.010, k=3),
            ("static:3", 1): steps(1, 0.010, k=3),
        },
    )
    found = step_drift(run, ("static:3", "none"))
    assert found is not None
    assert found["arm"] == "none"
    assert found["ratio"] == pytest.approx(1.2)
    assert step_drift(run, ("static:3",)) == {"arm": "static:3", "ratio": pytest.approx(1.0)}


def test_the_median_ignores_a_hiccup(tmp_path):
    run = write(
        tmp_path / "run",
        {("none", 0): steps(1, 0.010), ("none", 1): steps(1, 0.010) + [(1, 0, 5.0, 0)] * 5},
    )
    found = step_drift(run, ("none",))
    assert found is not None
    assert found["ratio"] == pytest.approx(1.0)


def test_one_seed_or_no_common_steps_say_nothing(tmp_path):
    alone = write(tmp_path / "one", {("none", 0): steps(1, 0.010)})
    apart = write(tmp_path / "two", {("none", 0): steps(1, 0.010), ("none", 1): steps(2, 0.010)})
    assert step_drift(alone, ("none",)) is None
    assert step_drift(apart, ("none",)) is None
    assert step_drift(apart, ()) is None


def test_a_reader_is_told(tmp_path):
    assert unsteady({"arm": "none", "ratio": UNSTEADY}) == ""
    assert unsteady(None) == ""
    assert "1.48 times as long" in unsteady({"arm": "static:3", "ratio": 1.48})
    live = summarise(write_run(tmp_path / "live", mode="live", noise=0.05))
    assert live["step_drift"]["arm"] in ("none", "static:3")
    assert "times as long" in machine_facts(live)[0].text
    assert machine_facts(summarise(write_run(tmp_path / "sim"))) == []
