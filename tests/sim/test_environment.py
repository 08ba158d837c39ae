"""The environment is the simulator, one tick a step, and its reward is what docs/policies.md says."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest

from harness.contract import Plan
from harness.policy import PolicyContext
from harness.policy.steered import Steered
from harness.sim.cell import Cell
from harness.sim.parametric import build_parametric_world
from harness.sim.reward import Reward
from harness.sim.state import STEP
from workloads.scenario import load_scenario

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("greenlet")
from harness.sim.environment import SpeculationEnv, _Meter  # noqa: E402

KS = [3, 7, 0, 1]


def cell(requests: int = 300, scenario: str = "verifier-update") -> Cell:
    chosen = load_scenario(scenario)
    return Cell(scenario=chosen, policy="ppo", seed=5, latency=chosen.latency, requests=requests)


class Scripted(Steered):
    """Takes KS in turn, as the environment's agent is told to below."""

    def reset(self, context: PolicyContext) -> Plan:
        self._turn = itertools.cycle(KS)
        return super().reset(context)

    def steer(self, features: np.ndarray, most: int) -> tuple[int, float]:
        return min(next(self._turn), most), 1.0


def play(
    env: SpeculationEnv, options: dict | None = None, seed: int | None = None
) -> tuple[np.ndarray, list[float], dict]:
    """(features [ticks, n], rewards, what the end told) of an episode of KS in turn."""
    first, _ = env.reset(seed=seed, options=options)
    seen, rewards = [first], []
    for action in itertools.cycle(KS):
        features, reward, over, cut, _ = env.step(action)
        assert not cut
        rewards.append(reward)
        if over:
            return np.array(seen), rewards
        seen.append(features)
    raise AssertionError


def test_it_keeps_the_rules_of_gymnasium() -> None:
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_env(SpeculationEnv([cell(60)]), skip_render_check=True)


def test_an_episode_is_the_run_of_the_same_decisions() -> None:
    """Step for step, to the byte: what is learned in is what is simulated."""

    class Keeps(_Meter):
        def __init__(self) -> None:
            super().__init__()
            self.all: list[np.ndarray] = []

        def step_rows(self, rows: np.ndarray) -> None:
            super().step_rows(rows)
            self.all.append(rows.copy())

    alone = Keeps()
    build_parametric_world(cell(), alone, Scripted()).run()
    env = SpeculationEnv([cell()])
    in_it: list[np.ndarray] = []
    env.reset(options={"cell": 0})
    take = env._meter.step_rows
    env._meter.step_rows = lambda rows: (in_it.append(rows.copy()), take(rows))[1]  # type: ignore[method-assign]
    before = env._meter._tokens
    for action in itertools.cycle(KS):
        if env.step(action)[2]:
            break
    rows, theirs = np.concatenate(alone.all), np.concatenate(in_it)
    assert before > 0
    assert rows[-len(theirs) :].tobytes() == theirs.tobytes()
    assert env._meter.time_per_token == alone.time_per_token


def test_a_seed_is_an_episode() -> None:
    env, other = SpeculationEnv([cell(120)]), SpeculationEnv([cell(120)])
    first, rewards = play(env, seed=4)
    again, rewards_again = play(other, seed=4)
    assert first.tobytes() == again.tobytes()
    assert rewards == rewards_again
    assert play(env)[1] != rewards  # the next episode is another one


def test_an_episode_can_be_left() -> None:
    env = SpeculationEnv([cell(120)])
    env.reset(seed=1)
    env.step(KS[0])
    assert play(env, seed=4)[1] == play(SpeculationEnv([cell(120)]), seed=4)[1]


def test_faster_is_rewarded_more() -> None:
    """K = 5 halves the engine time per token here, and K = 0 is what it is measured by: rewards say so."""

    def always(k: int) -> tuple[float, float]:
        env = SpeculationEnv([cell(400, "steady")])
        env.reset(options={"cell": 0})
        total = 0.0
        while True:
            _, reward, over, _, told = env.step(k)
            total += reward
            if over:
                return total, told["time_per_token"]

    found = {k: always(k) for k in (0, 1, 3, 5)}
    assert abs(found[0][0]) < 0.1 * found[1][0]
    assert found[1][0] < found[3][0] < found[5][0]
    assert found[0][1] > found[1][1] > found[3][1] > found[5][1]


# --- the reward, by hand --------------------------------------------------------------------------


@pytest.fixture
def reward() -> Reward:
    return Reward(
        PolicyContext(
            max_k=3,
            max_batch=8,
            predict=lambda shape: 0.01 + 0.001 * shape.tokens,
            offline_hazards=(0.5,),
        )
    )


def steps(*rows: dict) -> list[np.ndarray]:
    found = np.zeros(len(rows), STEP)
    for place, row in zip(found, rows, strict=True):
        for name, value in row.items():
            place[name] = value
    return [found]


def test_a_tick_is_worth_its_seconds_times_the_log_of_its_speedup(reward) -> None:
    """Batch 4 at K = 3: 2 tokens a step, expected, in 0.016 s; without drafts one token in 0.014 s."""
    decoding = {"batch": 4, "k": 3, "seconds": 0.016, "output_tokens": 99}
    ran = steps(*[decoding] * 5, {"prefill_tokens": 64, "seconds": 9.0})
    found = reward.of(ran, 800.0, (1.0, 1.5, 1.8, 2.0))
    assert found == pytest.approx(5 * 0.016 * math.log(2.0 * 0.014 / 0.016))


def test_prompt_chunks_are_the_work_of_both(reward) -> None:
    """A step of 4 sequences and 256 prompt tokens at K = 0 is worth nothing and costs nothing."""
    ran = steps({"batch": 4, "k": 0, "seconds": 0.01 + 0.001 * 260, "prefill_tokens": 256})
    assert reward.of(ran, 800.0, (1.0,) * 4) == pytest.approx(0.0, abs=1e-12)


def test_a_tick_without_decoding_is_worth_nothing(reward) -> None:
    assert reward.of([], 0.0, ()) == 0.0
    assert reward.of(steps({"prefill_tokens": 64, "seconds": 9.0}), 0.0, (1.0,)) == 0.0
