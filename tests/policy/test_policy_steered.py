"""What a policy that learns K sees, and that the rest of it is the bandit's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from policy_world import HAZARDS, context, predict

from harness.contract import TRAINED, Observation, PositionCounts, StepLatency, Swap, TrainerState
from harness.latency.shape import decode_shape
from harness.policy import check_policy
from harness.policy.bandit import Bandit, BanditSettings
from harness.policy.check import scripted_observations
from harness.policy.steered import FEATURES, MOST_K, Steered

NOTHING = Observation(time=1.0, running=14, mean_context=800.0)


class By(Steered):
    """Steered by a function; keeps what it saw."""

    def __init__(self, choose: Callable[[dict[str, float]], int] = lambda seen: 3) -> None:
        super().__init__()
        self.choose, self.seen = choose, []

    def steer(self, features: np.ndarray, most: int) -> tuple[int, float]:
        assert features.dtype == np.float32
        self.seen.append(dict(zip(FEATURES, features.tolist(), strict=True)))
        return min(self.choose(self.seen[-1]), most), 0.5


def tick(k: int = 3) -> Observation:
    """32 steps at batch 14."""
    counts = {("chat", "a"): PositionCounts((400, 240, 140)[:k], (240, 140, 80)[:k])} if k else {}
    steps = (StepLatency(14, k, 32, 32 * predict(decode_shape(14, k, 800.0)), 1200),)
    return replace(NOTHING, engine_steps=32, steps=steps, positions=counts)


def test_worth_is_the_log_of_tokens_per_second_over_k_0() -> None:
    """At the offline hazards, which nothing has contradicted yet, and the model's seconds."""
    policy = By()
    policy.reset(context(max_batch=16))
    policy.decide(NOTHING)
    length = 1 + np.cumsum(np.cumprod(HAZARDS))
    for k in range(1, MOST_K + 1):
        seconds = predict(decode_shape(14, k, 800.0)) / predict(decode_shape(14, 0, 800.0))
        assert policy.seen[0][f"worth of K={k}"] == pytest.approx(math.log(length[k - 1] / seconds), abs=0.01)


def test_k_is_what_was_chosen_at_the_running_batch_and_the_models_elsewhere() -> None:
    policy, model = By(lambda seen: 2), Bandit(BanditSettings(probe_budget=0.0))
    policy.reset(context())
    model.reset(context())
    plan, theirs = policy.decide(NOTHING), model.decide(NOTHING)
    assert plan.k(14) == 2 != theirs.k(14)
    assert plan.propensity == 0.5
    assert [plan.k(b) for b in (1, 2, 40, 60)] == [theirs.k(b) for b in (1, 2, 40, 60)]


def test_trainer_and_drafter_are_the_bandits() -> None:
    """Over the contract's whole script: the same training, drafter and publications."""
    given = context(trainer=True)
    policy, model = By(), Bandit(BanditSettings())
    policy.reset(given)
    model.reset(given)
    published = 0
    for observation in scripted_observations(given):
        plan, theirs = policy.decide(observation), model.decide(observation)
        assert plan.train == theirs.train
        assert (plan.publish, plan.drafter) == (theirs.publish, theirs.drafter)
        published += plan.publish
    assert published > 0


def test_an_engine_that_allows_less_says_so() -> None:
    policy = By(lambda seen: 7)
    policy.reset(context(max_k=2, offline_hazards=HAZARDS[:2]))
    assert policy.decide(NOTHING).k(14) == 2
    assert [policy.seen[0][f"worth of K={k}"] for k in range(3, MOST_K + 1)] == [-1.0] * (MOST_K - 2)


def test_evidence_and_its_want_are_seen() -> None:
    policy = By(lambda seen: 0)
    policy.reset(context())
    for observation in (tick(3), tick(0), tick(0), tick(3)):
        policy.decide(observation)
    idle = [seen["ticks without drafts"] for seen in policy.seen]
    assert idle[0] == idle[3] == 0.0 < idle[1] < idle[2]
    doubts = [policy.seen[0][f"doubt at position {i}"] for i in range(4)]
    assert doubts[0] < doubts[1] < doubts[2] < doubts[3] == 1.0


def test_every_vector_is_within_bounds_and_the_contract_is_kept() -> None:
    given = context(trainer=True)
    policy = By()
    policy.reset(given)
    for observation in scripted_observations(given):
        policy.decide(observation)
    found = np.array([list(seen.values()) for seen in policy.seen])
    assert (np.abs(found) <= 5.0).all()
    check_policy(By, given)


def test_what_held_out_figures_promise_is_believed_before_anything_was_drafted() -> None:
    """An untrained drafter at K = 0 meets no traffic group; without the promise its successor would never be tried."""
    policy = By(lambda seen: 0)
    policy.reset(context(trainer=True, offline_hazards=(0.01,)))
    better = TrainerState(
        alive=True,
        candidate=1,
        candidate_samples=400,
        heldout_serving={"chat": 1.0},
        heldout_candidate={"chat": 2.5},
        heldout_samples={"chat": 4000},
    )
    plans = [policy.decide(replace(tick(0), time=float(t), trainer=better)) for t in range(30, 60)]
    assert any(plan.publish for plan in plans)
    arrived = Swap(time=60.0, version=1, stall=0.1)
    after = replace(tick(0), time=61.0, drafter=TRAINED, drafter_version=1, last_swap=arrived)
    policy.decide(after)
    assert policy.seen[-2]["worth of K=3"] < 0.0 < 0.3 < policy.seen[-1]["worth of K=3"]
