"""From run log to verdict: true speedups are found, and what spoils a comparison fails it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.compare import best_static, find_pair, summarise, verdict
from harness.compare.metrics import METRICS, RATIOS
from harness.compare.summary import arm_kind, mean_of
from harness.errors import InputError, UnknownName
from harness.runlog import CellWriter, RunWriter, read_run
from tests.factories import request_table, step_table, write_run


def speedup(summary: dict[str, Any], arm: str, over: str) -> dict[str, Any]:
    found: dict[str, Any] = find_pair(summary, arm, over)["ratios"]["speedup"]
    return found


def check(summary: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in summary["verdict"]["checks"] if c["name"] == name)
    return found


def test_the_true_speedup_is_found(tmp_path: Path) -> None:
    summary = summarise(write_run(tmp_path / "run", {"none": 1.0, "static:3": 1.2, "bandit": 1.5}, noise=0.0))
    assert speedup(summary, "bandit", "none")["estimate"] == pytest.approx(1.5)
    assert speedup(summary, "none", "bandit")["estimate"] == pytest.approx(1 / 1.5)
    assert speedup(summary, "bandit", "static:3")["estimate"] == pytest.approx(1.25)
    assert find_pair(summary, "bandit", "none")["ratios"]["tpot"]["estimate"] == pytest.approx(1.5)


def test_noise_is_covered_by_the_interval(tmp_path: Path) -> None:
    seeds = tuple(range(8))
    summary = summarise(write_run(tmp_path / "run", seeds=seeds, noise=0.03))
    found = speedup(summary, "bandit", "static:3")
    assert found["low"] < 1.25 < found["high"]
    assert found["n"] == 8
    assert 1.0 < found["high"] / found["low"] < 1.15


def test_summary_json_is_what_is_returned_and_complete(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    summary = summarise(run)
    stored = json.loads((run / "summary.json").read_text())
    assert stored == json.loads(json.dumps(summary))
    assert read_run(run).summary == stored
    assert len(summary["pairs"]) == 6
    for found in summary["arms"].values():
        assert METRICS.keys() <= found["mean"].keys()
        assert found["by_seed"].keys() == {"0", "1", "2"}
        assert found["requests"]["finished"] == 180
    assert all(p["ratios"].keys() == RATIOS.keys() for p in summary["pairs"])


def test_summarising_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    summarise(run)
    first = (run / "summary.json").read_bytes()
    summarise(run)
    assert (run / "summary.json").read_bytes() == first


def test_a_sound_run_has_a_verdict(tmp_path: Path) -> None:
    summary = summarise(write_run(tmp_path / "run"))
    told = summary["verdict"]
    assert told["ok"]
    assert told["best_static"]["arm"] == "static:3"
    (finding,) = told["findings"]
    assert (finding["arm"], finding["over"], finding["outcome"]) == ("bandit", "static:3", "faster")
    assert finding["beats_every_static"]
    assert told["headline"].startswith("bandit is faster than static:3: speedup 1.2")
    assert verdict(summary) == told


def test_an_adaptive_arm_that_loses_is_said_to(tmp_path: Path) -> None:
    summary = summarise(write_run(tmp_path / "run", {"none": 1.0, "static:3": 1.3, "bandit": 1.1}))
    (finding,) = summary["verdict"]["findings"]
    assert summary["verdict"]["ok"]
    assert finding["outcome"] == "slower"
    assert not finding["beats_every_static"]


def test_a_gain_that_costs_too_much_training_is_marked(tmp_path: Path) -> None:
    settings = {"bandit": {"trainer_accelerators": 1}}
    summary = summarise(write_run(tmp_path / "run", settings=settings))
    (finding,) = summary["verdict"]["findings"]
    assert finding["outcome"] == "faster"
    assert finding["against"] == ["goodput"]
    assert "but worse by goodput" in summary["verdict"]["headline"]


def test_the_best_static_arm_is_the_fastest_of_all_static_ones(tmp_path: Path) -> None:
    arms = {"none": 1.0, "static:3": 0.8, "static:5": 0.7, "oracle": 2.0, "goodput": 1.1}
    summary = summarise(write_run(tmp_path / "run", arms, noise=0.0))
    found = best_static(summary)
    assert found is not None
    assert found["arm"] == "none"
    assert found["candidates"].keys() == {"none", "static:3", "static:5"}
    assert {f["arm"]: f["kind"] for f in summary["verdict"]["findings"]} == {
        "oracle": "oracle",
        "goodput": "adaptive",
    }
    assert "oracle" not in summary["verdict"]["headline"]


def test_without_a_static_arm_there_is_none(tmp_path: Path) -> None:
    summary = summarise(write_run(tmp_path / "run", {"bandit": 1.2, "goodput": 1.1}))
    assert best_static(summary) is None
    assert summary["verdict"]["findings"] == []


# --- what spoils a comparison ---


def test_one_seed_is_not_enough(tmp_path: Path) -> None:
    summary = summarise(write_run(tmp_path / "run", seeds=(0,)))
    assert not summary["verdict"]["ok"]
    assert "not enough seeds" in summary["verdict"]["headline"]
    assert speedup(summary, "bandit", "none")["low"] is None
    assert speedup(summary, "bandit", "none")["estimate"] > 1


def test_unfinished_requests_fail_the_verdict(tmp_path: Path) -> None:
    summary = summarise(write_run(tmp_path / "run", unfinished={"bandit": 2}))
    assert not summary["verdict"]["ok"]
    assert "bandit has 6 unfinished" in check(summary, "all_finished")["detail"]
    assert summary["arms"]["bandit"]["requests"] == {
        "finished": 174,
        "unfinished": 6,
        "rejected": 0,
        "failed": 0,
    }
    assert summary["arms"]["bandit"]["mean"]["slo_attainment"] == pytest.approx(58 / 60)


@pytest.mark.parametrize(
    ("column", "failing"),
    [
        ("prompt_tokens", "same_requests"),
        ("arrival", "same_requests"),
        ("output_tokens", "same_outputs"),
        ("scheduled", "measured"),
    ],
)
def test_arms_that_cannot_be_paired_fail_the_verdict(tmp_path: Path, column: str, failing: str) -> None:
    info = {"mode": "sim", "scenario": "x", "seeds": [0, 1], "arms": {"none": {}, "bandit": {}}}
    with RunWriter(tmp_path / "run", info) as run:
        for arm in info["arms"]:
            for seed in (0, 1):
                table = request_table(seed, 20, 1.0, drafts=False)
                if (arm, seed) == ("bandit", 1):
                    odd = np.nan if column == "scheduled" else table[column][3] + 1
                    table[column] = np.where(np.arange(20) == 3, odd, table[column])
                with CellWriter(run.parts, arm, seed) as cell:
                    cell.requests(table)
                    cell.steps(step_table(request_table(seed, 20, 1.0, drafts=False), drafts=False))
    summary = summarise(tmp_path / "run")
    failed = [c["name"] for c in summary["verdict"]["checks"] if not c["ok"]]
    assert failed == [failing]
    assert not summary["verdict"]["ok"]


def test_a_run_of_nothing_fails_the_verdict(tmp_path: Path) -> None:
    info = {"mode": "sim", "scenario": "x", "seeds": [0, 1], "arms": {"none": {}}}
    with RunWriter(tmp_path / "run", info) as run:
        for seed in (0, 1):
            with CellWriter(run.parts, "none", seed):
                pass
    summary = summarise(tmp_path / "run")
    assert not summary["verdict"]["ok"]
    assert summary["series"] is None


# --- series and small parts ---


def test_series_add_up_to_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=(0,))
    series = summarise(run)["series"]
    width = series["edges"][1] - series["edges"][0]
    requests = read_run(run).requests("bandit", 0)
    curves = series["arms"]["bandit"]
    assert sum(curves["tokens_per_second"]) * width == pytest.approx(
        requests["output_tokens"].sum(), rel=1e-4
    )
    good = requests["output_tokens"][requests["slo_met"]].sum()
    assert sum(curves["goodput"]) * width == pytest.approx(good, rel=1e-4)
    assert {k for k in curves["k"] if k is not None} == {3.0}
    assert all(v is None for v in series["arms"]["none"]["acceptance_length"])
    assert all(v is None for v in series["arms"]["none"]["acceptance_of_finished"])
    bins = pd.cut(requests["finish"], series["edges"], labels=False, right=False)
    sums = requests.groupby(bins)[["accepted_tokens", "verify_steps"]].sum()
    for place, row in sums.iterrows():
        length = 1 + row["accepted_tokens"] / row["verify_steps"]
        assert curves["acceptance_of_finished"][place] == pytest.approx(length, abs=1e-6)
    shares = np.array([[v or 0.0 for v in s] for s in series["domains"].values()]).sum(axis=0)
    assert set(np.round(shares, 3)) <= {0.0, 1.0}
    assert [m["kind"] for m in series["marks"]["bandit"]] == ["shift", "publish", "swap", "swap"]


def test_series_hold_the_spread_of_the_seeds_and_the_shares_of_k(tmp_path: Path) -> None:
    alone = [summarise(write_run(tmp_path / f"{s}", seeds=(s,), requests=20))["series"] for s in (0, 1)]
    both = summarise(write_run(tmp_path / "both", seeds=(0, 1), requests=20))["series"]
    longest = max(alone, key=lambda series: series["edges"][-1])
    assert both["edges"] == longest["edges"]
    for name, own in longest["arms"]["bandit"].items():
        low, mean, high = (both[part]["bandit"][name] for part in ("low", "arms", "high"))
        for a, b, c, seed in zip(low, mean, high, own, strict=True):
            assert (a is None) == (b is None) == (c is None)
            assert seed is None or (a <= seed <= c and a <= b <= c)
    assert longest["low"] == longest["arms"] == longest["high"]
    assert both["k_share"]["none"].keys() == {"0"}
    assert both["k_share"]["bandit"].keys() == {"3"}
    assert {v for v in both["k_share"]["bandit"]["3"] if v is not None} == {1.0}


def test_mean_over_seeds() -> None:
    assert mean_of([1.0, 3.0]) == 2.0
    assert mean_of([None, 3.0]) == 3.0
    assert mean_of([None, None]) is None
    assert mean_of([{"3": 1.0}, {"0": 0.5, "3": 0.5}]) == {"0": 0.25, "3": 0.75}
    assert mean_of([{"10": 1.0}, {"9": 1.0}]) == {"9": 0.5, "10": 0.5}
    assert mean_of(["busy", "busy"]) == "busy"


def test_kinds_of_arm() -> None:
    names = {
        "none": "static",
        "static:5": "static",
        "schedule": "static",
        "oracle-load": "oracle",
        "cadence": "adaptive",
    }
    assert {name: arm_kind({}, name) for name in names} == names
    assert arm_kind({"policy": "static:3"}, "mine") == "static"
    assert arm_kind({"kind": "static"}, "mine") == "static"
    with pytest.raises(UnknownName, match="kind of arm"):
        arm_kind({"kind": "fixed"}, "mine")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run\.json"):
        summarise(tmp_path)
    summary = summarise(write_run(tmp_path / "run"))
    with pytest.raises(UnknownName, match="unknown arm 'bandot'; did you mean 'bandit'"):
        find_pair(summary, "bandot", "none")
