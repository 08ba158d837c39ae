"""The gate: passes what did not get worse, fails what did, what is unclear and what is missing."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness import gate as gate_module
from harness.compare import summarise
from harness.errors import InputError
from harness.gate import GateResult, GateRow, gate, write_baseline
from tests.factories import write_run

ARMS = {"none": 1.0, "static:3": 1.2, "bandit": 1.5}
QUIET: dict[str, Any] = {"noise": 0.001, "seeds": (0, 1, 2, 3, 4)}


def make(path: Path, arms: dict[str, float] | None = None, **options: Any) -> Path:
    run = write_run(path, arms or ARMS, **(QUIET | options))
    summarise(run)
    return run


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("baseline") / "old")


@pytest.fixture
def baseline(tmp_path: Path, old: Path) -> Path:
    """A baseline of the run at `tmp_path / "old"`."""
    shutil.copytree(old, tmp_path / "old")
    path = tmp_path / "baseline.json"
    write_baseline(old, path)
    return path


def row(result: GateResult, arm: str, over: str, metric: str = "speedup") -> GateRow:
    return next(r for r in result.rows if (r.arm, r.over, r.metric) == (arm, over, metric))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_same_run_passes_with_no_change(tmp_path: Path, baseline: Path) -> None:
    result = gate(tmp_path / "old", baseline)
    assert result.ok
    assert result.exit_code == 0
    assert {(r.change, r.low, r.high) for r in result.rows} == {(1.0, 1.0, 1.0)}
    gated = {(r.arm, r.over) for r in result.rows}
    assert gated == {("static:3", "none"), ("bandit", "none"), ("bandit", "static:3")}


def test_noise_passes(tmp_path: Path, baseline: Path) -> None:
    assert gate(make(tmp_path / "new", salt=1), baseline).ok


def test_a_regression_fails_and_is_named(tmp_path: Path, baseline: Path) -> None:
    result = gate(make(tmp_path / "new", ARMS | {"bandit": 1.4}, salt=1), baseline)
    assert result.exit_code == 1
    found = row(result, "bandit", "none")
    assert found.status == "regressed"
    assert found.change == pytest.approx(1.4 / 1.5, abs=0.005)
    assert found.baseline == pytest.approx(1.5, abs=0.005)
    assert found.high is not None
    assert found.high < 1.0
    assert row(result, "static:3", "none").status == "pass"
    assert result.decision.startswith("gate fails: bandit over none by speedup: regressed")
    out = StringIO()
    Console(file=out, width=200).print(result.table())
    text = out.getvalue()
    assert "FAIL" in text
    assert text.index("regressed") < text.index("pass")
    assert "credibly lower" in text


def test_a_loss_within_the_tolerance_passes(tmp_path: Path, baseline: Path) -> None:
    result = gate(make(tmp_path / "new", ARMS | {"bandit": 1.49}, salt=1), baseline)
    found = row(result, "bandit", "none")
    assert found.high is not None
    assert found.high < 1.0
    assert (result.ok, found.status) == (True, "pass")


def test_an_improvement_passes_and_is_noted(tmp_path: Path, baseline: Path) -> None:
    result = gate(make(tmp_path / "new", ARMS | {"bandit": 1.7}, salt=1), baseline)
    assert (result.ok, row(result, "bandit", "none").status) == (True, "improved")


def test_what_noise_hides_fails_as_undecided(tmp_path: Path, baseline: Path) -> None:
    """Five seeds with 5% noise cannot exclude a loss of 2%: doubt is no pass."""
    result = gate(make(tmp_path / "new", salt=1, noise=0.05), baseline)
    statuses = {r.status for r in result.rows if r.metric == "speedup"}
    assert statuses == {"undecided"}
    assert result.exit_code == 1
    assert "run more seeds" in row(result, "bandit", "none").detail


def test_a_wider_tolerance_is_obeyed(tmp_path: Path, baseline: Path) -> None:
    new = make(tmp_path / "new", ARMS | {"bandit": 1.4}, salt=1)
    edit(baseline, tolerance=0.1)
    assert gate(new, baseline).ok


@pytest.mark.parametrize(
    ("low", "estimate", "high", "status"),
    [
        (0.98, 1.0, 1.02, "pass"),
        (0.985, 0.988, 0.99, "pass"),  # credibly lower, but by less than the tolerance
        (1.01, 1.015, 1.02, "pass"),
        (1.01, 1.03, 1.05, "improved"),
        (0.95, 0.97, 0.99, "regressed"),  # credibly lower, how far is open
        (0.90, 0.92, 0.94, "regressed"),
        (0.97, 0.99, 1.0, "undecided"),
        (0.90, 1.10, 1.30, "undecided"),
        (None, 1.50, None, "undecided"),
    ],
)
def test_the_table_of_decisions(low: float | None, estimate: float, high: float | None, status: str) -> None:
    """The table of docs/statistics.md, at a tolerance of 2%."""
    change = {"low": low, "estimate": estimate, "high": high}
    assert gate_module._decide(change, 0.02)[0] == status


# --- what is missing fails ---


def problems(run: Path, baseline: Path) -> str:
    result = gate(run, baseline)
    assert not result.ok
    assert result.exit_code == 1
    assert result.as_dict()["ok"] is False
    return "; ".join(result.problems)


def test_a_missing_run_fails(tmp_path: Path, baseline: Path) -> None:
    assert "there is no run" in problems(tmp_path / "nowhere", baseline)


def test_a_missing_baseline_fails(tmp_path: Path, baseline: Path) -> None:
    assert "there is no baseline" in problems(tmp_path / "old", tmp_path / "other.json")


def test_a_missing_or_empty_summary_fails(tmp_path: Path, baseline: Path) -> None:
    (tmp_path / "old" / "summary.json").write_text("{}")
    assert "has no verdict" in problems(tmp_path / "old", baseline)
    (tmp_path / "old" / "summary.json").unlink()
    assert "no summary.json" in problems(tmp_path / "old", baseline)


def test_a_missing_arm_fails(tmp_path: Path, baseline: Path) -> None:
    result = gate(make(tmp_path / "new", {"none": 1.0, "static:3": 1.2}), baseline)
    assert result.exit_code == 1
    assert row(result, "bandit", "none").status == "missing"
    assert "unknown arm 'bandit'" in row(result, "bandit", "none").detail


def test_a_missing_metric_fails(tmp_path: Path, baseline: Path) -> None:
    gated = json.loads(baseline.read_text())["gated"]
    edit(baseline, gated=[gated[0] | {"metric": "happiness"}])
    result = gate(tmp_path / "old", baseline)
    assert (result.ok, result.rows[0].status) == (False, "missing")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": (0, 1, 2)}, "seeds is [0, 1, 2] here, [0, 1, 2, 3, 4] in the baseline"),
        ({"scenario": "other"}, "scenario is 'other' here"),
        ({"mode": "live"}, "mode is 'live' here"),
        ({"requests": 50}, "configuration.requests is 50 here, 60 in the baseline"),
        ({"configuration": {"engine": {"max_k": 9}}}, "configuration.engine.max_k is 9 here, 'not set'"),
        ({"unfinished": {"bandit": 1}}, "bandit has 5 unfinished"),
    ],
)
def test_runs_that_cannot_be_compared_fail(
    tmp_path: Path, baseline: Path, options: dict[str, Any], said: str
) -> None:
    assert said in problems(make(tmp_path / "new", **options), baseline)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baseline_version": 99}, "version 99"),
        ({"gated": []}, "gates nothing"),
        ({"tolerance": 1.5}, "tolerance"),
        ({"tolerance": "2%"}, "tolerance"),
        ({"gated": [{"arm": "bandit", "over": "none", "metric": "speedup"}]}, "value for each seed"),
        (
            {"gated": [{"arm": "a", "over": "b", "metric": "c", "by_seed": dict.fromkeys("01234", 0)}]},
            "positive",
        ),
    ],
)
def test_a_broken_baseline_fails(tmp_path: Path, baseline: Path, changes: dict[str, Any], said: str) -> None:
    edit(baseline, **changes)
    assert said in problems(tmp_path / "old", baseline)


# --- baselines ---


def test_a_baseline_says_what_made_it(baseline: Path) -> None:
    found = json.loads(baseline.read_text())
    assert found["scenario"] == "factory"
    assert found["made"].keys() == {"command", "git", "time_utc"}
    assert found["made"]["time_utc"]
    assert found["best_static"]["arm"] == "static:3"
    entry = found["gated"][0]
    assert entry["low"] < entry["estimate"] < entry["high"]
    assert entry["by_seed"].keys() == set("01234")


def test_a_run_without_a_sound_verdict_is_no_baseline(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not enough seeds"):
        write_baseline(make(tmp_path / "one", seeds=(0,)), tmp_path / "b.json")
    with pytest.raises(InputError, match=r"no summary\.json"):
        write_baseline(write_run(tmp_path / "bare"), tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()


def test_the_default_baseline_is_the_committed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "BASELINES", tmp_path / "baselines")
    run = make(tmp_path / "run")
    assert not gate(run).ok
    write_baseline(run)
    assert (tmp_path / "baselines" / "factory.json").is_file()
    assert gate(run).ok
    live = make(tmp_path / "live", mode="live")
    assert gate_module.default_baseline(live) == tmp_path / "baselines" / "factory.live.json"


def test_a_result_of_no_rows_is_no_pass() -> None:
    empty = GateResult("run", "baseline")
    assert empty.exit_code == 1
    assert empty.decision == "gate fails: nothing was compared"
