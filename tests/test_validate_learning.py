"""`specdrift validate --live RUN --acceptance model`: the same stream learnt anew, point by point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from harness.compare.acceptance_curve import BLOCK, compare_curves, curve
from harness.runlog import read_run
from harness.sim.job import prepare
from harness.sim.simulate import simulate
from harness.validate_learning import trainer_pace, validate_learning
from tests.test_cli import call
from workloads.scenario import parse_scenario

ARMS = ("static:3", "cadence:48@3")
REQUESTS = 240
SCENARIO = f"""
name = "small"
question = "Is it the same again?"
requests = {REQUESTS}
max_k = 3
[arrivals]
process = "poisson"
rate = 13.0
[mixture]
kind = "constant"
domains = {{ spider-sql = 1 }}
[trainer]
samples_per_second = 20.0
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """What a live run of `micro` would leave, from the simulator: its learner is the same object."""
    out = tmp_path_factory.mktemp("learn") / "run"
    job = prepare(
        parse_scenario(SCENARIO, "test"), policies=ARMS, seeds=(0,), acceptance="model:micro", workers=1
    )
    simulate(job, out)
    told = json.loads((out / "run.json").read_text())
    told["configuration"] |= {"model": {"name": "micro"}, "engine": {}}
    (out / "run.json").write_text(json.dumps(told))
    return out


def test_the_same_stream_learnt_anew_accepts_the_same(run):
    found = validate_learning(run, "h100-llama3-8b", workers=1)
    assert found["ok"]
    assert json.loads((run / "acceptance-beside.json").read_text()) == found
    assert found["samples_per_second"] == pytest.approx(20.0, rel=0.05)
    for arm in ARMS:
        entry = found["arms"][arm]
        assert len(entry["live"]) == -(-REQUESTS // BLOCK)
        assert entry["largest"] <= (0.0 if arm == "static:3" else 0.05)
    learnt = found["arms"]["cadence:48@3"]["live"]
    assert learnt[-1] > found["arms"]["static:3"]["live"][-1]


def test_a_curve_is_tokens_by_verify_steps_in_order_of_arrival(run):
    log = read_run(run)
    rows = log.requests("static:3", 0).sort_values("arrival")
    first = rows[:BLOCK]
    wanted = 1 + first["accepted_tokens"].sum() / first["verify_steps"].sum()
    assert curve(log, "static:3", 0)[0] == pytest.approx(wanted)
    assert trainer_pace(log) is not None


def test_another_drafter_is_outside_the_bar(run):
    """The curve of an arm that learns against one that does not."""
    log = read_run(run)

    class Mixed:
        path, arms, seeds = run, ("static:3",), (0,)

        def requests(self, arm, seed, columns):
            return log.requests("cadence:48@3", seed, columns)

    found = compare_curves(log, Mixed())  # type: ignore[arg-type]
    assert not found["ok"]
    assert found["arms"]["static:3"]["largest"] > found["bar"]


def test_a_point_that_one_side_alone_has_is_outside(run):
    log = read_run(run)

    class Silent:
        path, arms, seeds = run, ("static:3",), (0,)

        def requests(self, arm, seed, columns):
            rows = log.requests(arm, seed, columns).sort_values(["arrival", "request_id"])
            rows.loc[rows.index[:BLOCK], "verify_steps"] = 0
            return rows

    entry = compare_curves(log, Silent())["arms"]["static:3"]  # type: ignore[arg-type]
    assert entry["simulated"][0] is None
    assert entry["largest"] == 0.0
    assert not entry["within"]


def test_the_command_and_its_mistakes(run, capsys, tmp_path):
    told = json.loads((run / "run.json").read_text())
    other = tmp_path / "run"
    other.mkdir()
    for part in run.iterdir():
        if part.suffix in (".parquet", ".json"):
            (other / part.name).write_bytes(part.read_bytes())
    told["configuration"]["model"] = {"name": "llama3-8b"}
    (other / "run.json").write_text(json.dumps(told))
    assert call("validate", "--live", str(other), "--acceptance", "model") == 2
    assert "made models only: tiny" in capsys.readouterr().err
    for what, value in (
        ("trace", "t.csv"),
        ("prompts", "p.jsonl"),
        ("output_tokens", 200),
        ("temperature", 0.8),
    ):
        (other / "run.json").write_text(
            json.dumps(told | {"configuration": told["configuration"] | {what: value}})
        )
        assert call("validate", "--live", str(other), "--acceptance", "model") == 2
        assert str(value) in capsys.readouterr().err
    assert call("validate", "--acceptance", "model") == 2
    assert "give --live RUN" in capsys.readouterr().err
    assert call("validate", "--live", str(run), "--acceptance", "modell") == 2
    assert "'model'" in capsys.readouterr().err
