"""none, static, cadence, goodput and the oracles: each does what its name says."""

from __future__ import annotations

import numpy as np
import pytest
from policy_world import HAZARDS, World, context, shifted

from harness.contract import STATIC, TRAINED, Observation, PositionCounts, TrainerState
from harness.errors import InputError
from harness.policy import make
from harness.policy.base import Truth
from harness.policy.lengths import lengths


def test_none_carries_no_drafter() -> None:
    policy = make("none")
    assert not policy.uses_drafter
    assert policy.reset(context()).max_k == 0


def test_static_never_moves() -> None:
    policy = make("static:4")
    plan = policy.reset(context(trainer=True))
    assert (plan.k(1), plan.k(10_000), plan.drafter, plan.train.on) == (4, 4, STATIC, False)
    assert policy.decide(Observation(time=9.0, finished=5000)) == plan


def ready(finished: int, candidate: int | None = 7) -> Observation:
    return Observation(time=1.0, finished=finished, trainer=TrainerState(alive=True, candidate=candidate))


def test_cadence_publishes_every_n_finished_requests_whatever_it_is_worth() -> None:
    policy = make("cadence:100@2")
    assert policy.reset(context(trainer=True)).drafter == TRAINED
    published = [policy.decide(ready(30, candidate=i)).publish for i in range(1, 13)]
    assert [i for i, p in enumerate(published, start=1) if p] == [4, 8, 12]


def test_cadence_waits_for_a_candidate_and_sends_it_once() -> None:
    policy = make("cadence")
    policy.reset(context(trainer=True, publish_requests=50))
    assert not policy.decide(ready(80, candidate=None)).publish
    assert policy.decide(ready(0)).publish
    assert not policy.decide(ready(80)).publish, "the swap is under way"
    assert policy.decide(ready(0, candidate=8)).publish


def test_cadence_without_a_trainer_only_speculates() -> None:
    policy = make("cadence")
    plan = policy.reset(context())
    assert (plan.max_k, plan.train.on) == (5, False)
    assert not policy.decide(ready(10_000)).publish
    assert make("cadence").reset(context(max_k=3)).max_k == 3


def test_goodput_tracks_acceptance_and_gets_stuck_at_zero() -> None:
    low = World(hazards=lambda t, d, v: np.full(7, 0.03 if t < 20 else 0.9), batch=lambda t: 150)
    log = low.run(make("goodput"), context(), 60.0)
    assert log.k[-1] == 0
    high = World(hazards=lambda t, d, v: np.full(7, 0.3 if t < 20 else 0.9), batch=lambda t: 16)
    log = high.run(make("goodput"), context(), 60.0)
    settled = [k for time, k in zip(log.time, log.k, strict=True) if 15 < time < 20]
    assert max(settled) <= 2
    assert log.k[-1] >= 5


def test_goodput_publishes_on_the_point_estimate() -> None:
    policy = make("goodput")
    policy.reset(context(trainer=True))
    positions = {("a", "t"): PositionCounts((300,), (150,)), ("b", "t"): PositionCounts((100,), (50,))}

    def seen(a: float, b: float, candidate: int) -> Observation:
        trainer = TrainerState(
            alive=True,
            candidate=candidate,
            heldout_serving={"a": 2.0, "b": 2.0},
            heldout_candidate={"a": a, "b": b},
            heldout_samples={"a": 100, "b": 100},
        )
        return Observation(time=1.0, positions=positions, trainer=trainer)

    assert policy.decide(seen(2.1, 1.8, 1)).publish
    assert not policy.decide(seen(2.1, 1.6, 2)).publish


def test_oracles_differ_in_the_axis_they_know() -> None:
    low = tuple(lengths(shifted(HAZARDS, -2.5)).tolist())
    truth = Truth(low, 200, 800.0, None, low)
    plans = {}
    for name in ("oracle", "oracle-load", "oracle-content"):
        policy = make(name)
        policy.bind_truth(lambda: truth)
        plans[name] = policy.reset(context())
    offline = make("schedule").reset(context())
    assert plans["oracle-load"].k_by_batch == offline.k_by_batch, "the context is the offline one too"
    assert plans["oracle"].k(200) < offline.k(200)
    assert len(plans["oracle-content"].k_by_batch) == 1
    assert plans["oracle-content"].max_k == plans["oracle"].k(32)


def test_oracle_is_the_upper_bound_in_the_world() -> None:
    world = World(hazards=lambda t, d, v: shifted(HAZARDS, 1.0 if t % 20 < 10 else -2.0), batch=lambda t: 40)
    oracle = world.run(make("oracle"), context(), 60.0).goodput
    for spec in ("static:1", "static:3", "static:5", "schedule", "goodput", "bandit", "oracle-load"):
        assert world.run(make(spec), context(), 60.0).goodput <= oracle


@pytest.mark.parametrize(("gain", "expected"), [(0.5, True), (-0.5, False)])
def test_oracle_publishes_true_gains_only(gain: float, expected: bool) -> None:
    now, other = (tuple(lengths(shifted(HAZARDS, g)).tolist()) for g in (0.0, gain))
    policy = make("oracle")
    policy.bind_truth(lambda: Truth(now, 16, 800.0, other, now))
    policy.reset(context(trainer=True))
    observation = Observation(time=60.0, trainer=TrainerState(alive=True, candidate=1))
    assert policy.decide(observation).publish is expected


def test_oracle_serves_the_better_of_static_and_trained() -> None:
    good, bad = (tuple(lengths(shifted(HAZARDS, g)).tolist()) for g in (0.0, -1.0))
    answer = Truth(bad, 16, 800.0, None, good)
    policy = make("oracle")
    policy.bind_truth(lambda: answer)
    policy.reset(context(trainer=True))
    assert policy.decide(Observation(time=60.0, drafter=TRAINED, drafter_version=1)).drafter == STATIC
    answer = Truth(bad, 16, 800.0, None, bad, trained_acceptance_length=good)
    assert policy.decide(Observation(time=61.0, drafter=STATIC)).drafter == TRAINED


def test_an_oracle_needs_its_truth() -> None:
    with pytest.raises(InputError, match="cannot run live"):
        make("oracle-load").reset(context())
