"""`specdrift validate --live`: a recorded run, its latency model, its replay, the exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.latency import load, store
from harness.runlog import read_run
from harness.validate_live import validate_live
from tests.sim.recording import record_run
from tests.test_cli import call
from workloads.scenario import load_scenario

ARMS = ("none", "static:3", "bandit")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    scenario = load_scenario("domain-shift").model_copy(update={"requests": 80})
    return record_run(tmp_path_factory.mktemp("live") / "run", scenario, ARMS, (0, 1))


@pytest.fixture
def run(recorded, tmp_path, monkeypatch) -> Path:
    """A copy to write into; one worker, for processes cost more than these cells."""
    monkeypatch.setattr("harness.sim.job.os.cpu_count", lambda: 1)
    return Path(shutil.copytree(recorded, tmp_path / "run"))


def test_under_the_true_latency_model_nothing_is_off(run, capsys):
    """Twice: an earlier simulation of the same run is replaced."""
    done: list[tuple[int, int]] = []
    for _ in range(2):
        found = validate_live(run, "h100-llama3-8b", lambda *given: done.append(given))
    assert done[5::6] == [(6, 6), (6, 6)]
    assert found["ok"]
    assert json.loads((run / "side-by-side.json").read_text()) == found
    fixed = found["arms"]["static:3"]
    assert all(abs(m["error"]) < 1e-9 for m in fixed["metrics"].values())
    assert fixed["replay"]["censored"] == fixed["replay"]["absent"] == 0
    assert fixed["replay"]["exact"] > 5_000
    assert found["arms"]["bandit"]["replay"]["exact"] > 5_000
    assert read_run(run / "simulated").arms == ARMS


def test_the_latency_model_is_by_default_the_one_recorded_from_the_run(run):
    found = validate_live(run)
    assert found["ok"]
    assert "Recorded" in found["latency"]["note"]
    assert all(abs(found["arms"][arm]["metrics"]["tpot"]["error"]) < 0.02 for arm in ARMS)


def depths(run: Path) -> list[int]:
    """K of every step of `bandit` in the simulation beside `run`."""
    return read_run(run / "simulated").steps("bandit", 0, ("k",))["k"].tolist()


def test_policies_believe_what_they_were_told_in_the_run(run):
    validate_live(run)
    without = depths(run)
    store.write(load("roofline:b200:llama3-8b"), run / store.BELIEVED)
    validate_live(run)
    assert depths(run) != without
    told = read_run(run / "simulated").info["configuration"]["policy_latency"]
    assert told == str(run / store.BELIEVED)
    validate_live(run, "h100-llama3-8b")
    told = read_run(run / "simulated").info["configuration"]["policy_latency"]
    assert told == "the simulator's own, so without error"


def test_the_command_prints_the_table_and_draws_the_section(run, capsys):
    assert call("validate", "--live", str(run), "--latency", "h100-llama3-8b") == 0
    printed = capsys.readouterr().out
    assert all(arm in printed for arm in ARMS)
    assert "within the bars" in printed
    assert "Live and simulated" in (run / "report.html").read_text()
    assert (run / "simulated" / "report.html").exists()


def test_a_wrong_latency_model_is_exit_1(run, capsys):
    assert call("validate", "--live", str(run), "--latency", "roofline:b200:llama3-8b", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    assert found["arms"]["none"]["metrics"]["tpot"]["within"] is False


def test_mistakes_are_one_sentence_and_exit_2(run, tmp_path, capsys):
    assert call("validate", "--live", str(run), "--published") == 2
    assert "stands alone" in capsys.readouterr().err
    assert call("validate", "--live", str(tmp_path / "nowhere")) == 2
    assert "there is no run" in capsys.readouterr().err
    (run / "verify.parquet").unlink()
    assert call("validate", "--live", str(run)) == 2
    assert "verify.parquet" in capsys.readouterr().err
    assert not (run / "simulated").exists()
    assert call("validate") == 2
    assert "--live RUN" in capsys.readouterr().err
