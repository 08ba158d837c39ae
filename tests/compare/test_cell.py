"""Metrics of a cell against closed forms on a log small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.compare.cell import cell_metrics
from harness.contract import Event, StepRecord
from harness.runlog import CellWriter, RunWriter, read_run

NAN = float("nan")
REQUESTS: dict[str, Any] = {
    "request_id": [0, 1, 2, 3],
    "domain": ["chat", "code", "code", "chat"],
    "tenant": ["a", "a", "b", "b"],
    "arrival": [1.0, 2.0, 3.0, 4.0],
    "scheduled": [1.0, 2.5, 3.0, NAN],
    "first_token": [1.5, 3.0, 3.5, NAN],
    "finish": [4.0, 5.0, 11.0, NAN],
    "prompt_tokens": [10, 10, 10, 99],
    "output_tokens": [6, 1, 26, 0],
    "cached_tokens": [0, 0, 0, 0],
    "preemptions": [0, 2, 0, 0],
    "verify_steps": [2, 0, 8, 0],
    "draft_tokens": [6, 0, 24, 0],
    "accepted_tokens": [3, 0, 17, 0],
    "slo_met": [True, True, False, False],
    "status": ["finished", "finished", "finished", "rejected"],
}
K_OF_STEPS = [3, 3, 0, 5, 0]
BATCH_OF_STEPS = [1, 2, 2, 1, 0]


def steps() -> dict[str, np.ndarray]:
    columns = {f.name: np.zeros(5, int) for f in fields(StepRecord)}
    own = {"start": np.arange(5.0), "seconds": np.ones(5), "k": K_OF_STEPS, "batch": BATCH_OF_STEPS}
    return {**columns, **{name: np.array(values) for name, values in own.items()}}


def measure(tmp_path: Path, settings: Mapping[str, Any], events: list[Event], keep_steps: bool = True) -> Any:
    info = {"mode": "sim", "scenario": "x", "seeds": [0], "arms": {"arm": dict(settings)}}
    with RunWriter(tmp_path / "run", info) as run, CellWriter(run.parts, "arm", 0, keep_steps) as cell:
        cell.requests(REQUESTS)
        cell.steps(steps())
        cell.events(events)
    return cell_metrics(read_run(tmp_path / "run"), "arm", 0)


def test_closed_forms(tmp_path: Path) -> None:
    m = measure(tmp_path, {}, [])
    assert m["duration"] == 10.0  # first arrival 1, last finish 11
    assert m["tokens_per_second"] == pytest.approx(3.3)
    assert m["requests_per_second"] == pytest.approx(0.3)
    assert m["goodput"] == m["goodput_gross"] == pytest.approx(0.7)
    assert m["engine_time_per_token"] == pytest.approx((3.0 + 2.5 + 8.0) / 33)
    assert m["queue"] == pytest.approx(0.5 / 3)
    assert m["ttft"]["mean"] == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert m["tpot"]["mean"] == pytest.approx((2.5 / 5 + 7.5 / 25) / 2)
    assert m["e2e"] == pytest.approx({"mean": 14 / 3, "p50": 3.0, "p90": 7.0, "p99": 7.9})
    assert m["slo_attainment"] == 0.5
    assert m["acceptance_length"] == 1 + 20 / 10
    assert m["k_histogram"] == {"0": 0.25, "3": 0.5, "5": 0.25}
    assert m["preemptions"] == 2
    assert m["requests"] == {"finished": 3, "unfinished": 0, "rejected": 1, "failed": 0}


def test_by_domain_and_tenant(tmp_path: Path) -> None:
    m = measure(tmp_path, {}, [])
    assert m["by_domain"]["code"]["requests"] == 2
    assert m["by_domain"]["code"]["slo_attainment"] == 0.5
    assert m["by_domain"]["chat"]["acceptance_length"] == 1 + 3 / 2
    assert m["by_tenant"]["b"]["e2e"] == 8.0
    assert list(m["by_tenant"]) == ["a", "b"]


def test_swaps_and_stalls(tmp_path: Path) -> None:
    events = [
        Event(0.0, "swap", {"version": 1, "ok": True, "stall": 0.5}),
        Event(1.0, "swap", {"version": 2, "ok": False, "stall": 0.25}),
        Event(2.0, "verifier_update", {"version": 1, "stall": 9.0}),
    ]
    m = measure(tmp_path, {}, events)
    assert (m["swaps"], m["failed_swaps"], m["stall_seconds"]) == (1, 1, 0.75)


def test_trainer_cost_is_taken_off_goodput(tmp_path: Path) -> None:
    """4 accelerators serve 10 s; 2 train, 5 s of it busy: 40 of 50 accelerator-seconds served."""
    events = [Event(1.0, "trainer", {"busy_seconds": 1.0}), Event(9.0, "trainer", {"busy_seconds": 5.0})]
    m = measure(tmp_path, {"accelerators": 4, "trainer_accelerators": 2}, events)
    assert (m["trainer_cost"], m["trainer_cost_basis"]) == (10.0, "busy")
    assert m["goodput"] == pytest.approx(0.7 * 40 / 50)
    assert m["goodput_gross"] == pytest.approx(0.7)


def test_a_trainer_that_does_not_say_is_charged_for_the_whole_run(tmp_path: Path) -> None:
    m = measure(tmp_path, {"accelerators": 4, "trainer_accelerators": 1}, [])
    assert (m["trainer_cost"], m["trainer_cost_basis"]) == (10.0, "held")
    assert m["goodput"] == pytest.approx(0.7 * 4 / 5)


def test_what_was_not_recorded_is_none(tmp_path: Path) -> None:
    m = measure(tmp_path, {}, [], keep_steps=False)
    assert m["k_histogram"] is None
    assert m["duration"] == 10.0
