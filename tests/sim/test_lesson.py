"""Learning a policy: it moves towards what is rewarded, says what it learned on, and refuses what cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytest.importorskip("stable_baselines3")

from harness.cli import main
from harness.errors import InputError
from harness.policy.network import load
from harness.policy.steered import FEATURES, MOST_K
from harness.sim.environment import SpeculationEnv
from harness.sim.lesson import Lesson, learn


def mean_chances(path: Path, lesson: Lesson) -> np.ndarray:
    """Probability of each K over the first ticks of an episode that was not learned on, float64[MOST_K + 1]."""
    network, env = load(path), SpeculationEnv(lesson.cells())
    features, _ = env.reset(seed=99)
    found = []
    for _ in range(30):
        logits = network.logits(features).astype(float)
        weights = np.exp(logits - logits.max())
        found.append(weights / weights.sum())
        features = env.step(3)[0]
    return np.mean(found, axis=0)


@pytest.mark.slow
def test_it_learns_which_k_is_fast_from_reward_alone(tmp_path: Path, monkeypatch) -> None:
    """Begun without the model's answer (every K as likely), on light load, where deep drafts pay: after 6,144 ticks
    K = 0 is half as likely as it was, and K >= 4 likelier."""
    import harness.sim.ppo

    for name, value in {"BELIEF": 0.0, "RATE": 3e-3, "BATCH": 128, "ROLLOUT": 512}.items():
        monkeypatch.setattr(harness.sim.ppo, name, value)
    lesson = Lesson(scenarios=("steady",), latencies=(None,), requests=300, ticks=6144, processes=1)
    out = tmp_path / "learned.safetensors"
    told: list[int] = []
    learned = learn(lesson, out, lambda stage, done, total: told.append(done))
    chances = mean_chances(out, lesson)
    assert chances[0] < 0.5 / (MOST_K + 1)
    assert chances[4:].sum() > 1.2 * 4 / (MOST_K + 1)
    assert told == sorted(told)
    assert told[-1] == 6144
    assert learned["scenarios"] == ["steady"]
    assert learned["curve"][-1]["ticks"] == 6144


def test_before_it_learns_it_is_the_models_answer() -> None:
    """The straight path: logits of K are its worth, K = 0 at zero."""
    from harness.policy.network import Network
    from harness.sim.ppo import BELIEF, PpoLearner

    learner = PpoLearner(Lesson(scenarios=("steady",)).cells()[:1], seed=0, processes=1)
    try:
        network = Network(tuple(learner.layers()), {})
    finally:
        learner.close()
    x = np.zeros(len(FEATURES), dtype=np.float32)
    x[FEATURES.index("worth of K=4")] = 0.3
    logits = network.logits(x)
    assert logits.argmax() == 4
    assert logits[4] == pytest.approx(0.3 * BELIEF)
    assert logits[0] == 0.0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"scenarios": ("stedy",)}, "did you mean 'steady'"),
        ({"latencies": ("h101",)}, "h101"),
    ],
)
def test_what_could_not_run_is_told_before_anything_starts(tmp_path: Path, changed, told) -> None:
    with pytest.raises(InputError, match=told):
        learn(Lesson(**({"requests": 50} | changed)), tmp_path / "p.safetensors", lambda *_: None)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_not_learned_over(tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    out.write_bytes(b"kept")
    with pytest.raises(InputError, match="is there already"):
        learn(Lesson(scenarios=("steady",), requests=50), out, lambda *_: None)
    assert out.read_bytes() == b"kept"


@pytest.mark.slow
def test_what_was_learned_is_a_policy_of_the_command_line(tmp_path: Path, capsys) -> None:
    out, run = tmp_path / "p.safetensors", tmp_path / "run"
    lesson = ["--scenario", "steady", "--latency", "h100-llama3-8b", "--requests", "60", "--ticks", "600"]
    assert call("train-policy", *lesson, "--workers", "1", "--out", str(out), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["policy"] == str(out)
    assert told["ticks"] == 1024  # whole rollouts
    arms = ["--policy", "static:3", "--policy", f"ppo:{out}"]
    assert (
        call("simulate", "--scenario", "steady", *arms, "--requests", "60", "--seeds", "1", "--out", str(run))
        == 0
    )
    assert f"ppo:{out}" in json.loads((run / "summary.json").read_text())["arms"]


@pytest.mark.slow
def test_the_same_lesson_and_seed_give_the_same_network(tmp_path: Path) -> None:
    lesson = ["--scenario", "steady", "--latency", "h100-llama3-8b", "--requests", "60", "--ticks", "256"]
    learned = []
    for name in ("once.safetensors", "again.safetensors"):
        out = tmp_path / name
        assert call("train-policy", *lesson, "--workers", "1", "--seed", "3", "--out", str(out)) == 0
        learned.append({key: value.tobytes() for key, value in load_file(out).items()})
    assert learned[0] == learned[1]
    assert learned[0]


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    return int(stop.value.code or 0)
