"""`specdrift evaluate-offline`: a policy that did not run, on what a run recorded, against a run in which it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.errors import InputError, SpecdriftError
from harness.evaluate_offline import evaluate_offline
from harness.runlog import read_run
from tests.sim.recording import record_run
from tests.test_cli import call
from workloads.scenario import load_scenario

ARMS = ("none", "static:3", "cadence:30@3")
OTHERS = ("static:2", "schedule", "bandit")


@pytest.fixture(scope="module")
def scenario():
    return load_scenario("domain-shift").model_copy(update={"requests": 300})


@pytest.fixture(scope="module")
def recorded(scenario, tmp_path_factory) -> Path:
    return record_run(tmp_path_factory.mktemp("offline") / "run", scenario, ARMS, (0, 1))


@pytest.fixture(scope="module")
def found(recorded, tmp_path_factory):
    """Under the true latency model, so that what is off is what the record does not know of acceptance."""
    out = tmp_path_factory.mktemp("offline") / "out"
    return evaluate_offline(recorded, OTHERS, None, "h100-llama3-8b", out, workers=1), out


def test_another_policy_comes_out_as_if_it_had_run(found, scenario, tmp_path):
    truth = read_run(record_run(tmp_path / "truth", scenario, ("none", *OTHERS), (0, 1))).summary
    result, _ = found
    for arm in OTHERS:
        mean, real = result["arms"][arm]["mean"], truth["arms"][arm]["mean"]
        assert mean["engine_time_per_token"] == pytest.approx(real["engine_time_per_token"], rel=0.03), arm
        assert mean["acceptance_length"] == pytest.approx(real["acceptance_length"], rel=0.04), arm


def test_it_says_whose_drafter_a_policy_met_and_what_the_record_knew(found):
    arms = found[0]["offline"]["arms"]
    assert {arm: entry["lender"] for arm, entry in arms.items()} == {
        "none": None, "static:3": None, "cadence:30@3": None,
        "static:2": "static:3", "schedule": "static:3", "bandit": "cadence:30@3",
    }  # fmt: skip
    assert arms["none"]["known"] is None
    assert arms["static:3"]["known"] == 1.0
    assert 0.2 < arms["static:2"]["known"] < 1.0
    assert arms["bandit"]["measured"] is None
    for arm in ("static:3", "cadence:30@3"):
        assert arms[arm]["replayed"] == pytest.approx(arms[arm]["measured"], rel=1e-6)


def test_a_policy_without_a_trainer_meets_the_static_drafter_and_pays_for_none(found):
    _, out = found
    run = read_run(out)
    assert set(run.steps("static:2", 0)["drafter_version"]) == {0}
    assert run.events("static:2", 0, kinds=("swap", "publish", "trainer_state")).empty
    assert run.info["arms"]["static:2"]["trainer_accelerators"] == 0.0
    assert not run.events("bandit", 0, kinds=("swap",)).empty
    assert run.info["arms"]["bandit"]["record"] == "cadence:30@3"
    assert run.info["arms"]["bandit"]["trainer_accelerators"] > 0.0


def test_another_arm_may_lend(recorded, tmp_path):
    result = evaluate_offline(recorded, ["bandit"], "static:3", None, tmp_path / "out", workers=1)
    assert result["offline"]["arms"]["bandit"]["lender"] == "static:3"
    assert result["arms"]["bandit"]["mean"]["swaps"] == 0
    assert result["arms"]["cadence:30@3"]["mean"]["swaps"] > 0


def test_where_answers_were_sampled_an_arm_lends_only_its_own_steps(recorded, found, tmp_path):
    """What the static drafter of another arm met belongs to another text."""
    run = shutil.copytree(recorded, tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    info["configuration"]["temperature"] = 0.7
    (run / "run.json").write_text(json.dumps(info))
    sampled = evaluate_offline(
        run, ["static:2"], "cadence:30@3", "h100-llama3-8b", tmp_path / "out", workers=1
    )
    known = [r["offline"]["arms"]["static:2"]["known"] for r in (sampled, found[0])]
    assert 0.0 < known[0] < known[1]


@pytest.mark.parametrize(
    ("policy", "arm", "why"),
    [
        ("static:3", None, "'static:3' ran in .*name another"),
        ("oracle", None, "needs the simulator's truth"),
        ("bandit:1+aurora", None, "names a learner"),
        ("goodptu", None, "did you mean 'goodput'"),
        ("static:2", "static:4", "did you mean 'static:3'"),
        ("static:2", "none", "nothing to lend"),
    ],
)
def test_what_cannot_be_evaluated_is_told(recorded, tmp_path, policy, arm, why):
    with pytest.raises(SpecdriftError, match=why):
        evaluate_offline(recorded, [policy], arm, None, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_a_run_in_which_nothing_was_drafted_has_nothing_to_lend(scenario, tmp_path):
    run = record_run(
        tmp_path / "run", scenario.model_copy(update={"requests": 20}), ("none", "static:3"), (0,)
    )
    info = json.loads((run / "run.json").read_text())
    info["arms"]["static:3"]["policy"] = "none"
    (run / "run.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"no arm of .* drafted"):
        evaluate_offline(run, ["static:2"], None, None, tmp_path / "out", workers=1)


def test_the_command_prints_what_was_measured_beside_it(recorded, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ("evaluate-offline", str(recorded), "--policy", "schedule", "--out", str(out))
    assert call(*asked) == 0
    text = capsys.readouterr().out
    assert "schedule" in text
    assert "100%" in text
    assert (out / "report.html").is_file()
    assert call(*asked) == 2
    assert "is not empty" in capsys.readouterr().err
    assert call(*asked[:-1], str(tmp_path / "two"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["offline"]["arms"]["schedule"]["replayed"] > 0
