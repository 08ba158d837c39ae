"""The bandit in a closed world: it follows, comes back, repairs, publishes, refuses and rolls back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from policy_world import HAZARDS, Log, World, context, predict, shifted

from harness.contract import STATIC, Observation, PositionCounts, TrainerState
from harness.latency.shape import StepShape
from harness.policy import make
from harness.policy.bandit import Bandit, BanditSettings

STATICS = [f"static:{k}" for k in range(8)]


def play(spec: str, world: World, until: float, **changes: object) -> Log:
    return dataclasses.replace(world).run(make(spec), context(**changes), until)


def swings(time: float, domain: str, version: int) -> np.ndarray:
    """Acceptance high for 12 s, low for 12 s: the best K at batch 32 goes from 7 to 1 and back."""
    return shifted(HAZARDS, 1.2 if int(time / 12) % 2 == 0 else -2.0)


@pytest.mark.parametrize("seed", [1, 2])
def test_beats_every_static_k_when_the_best_one_changes(seed: int) -> None:
    world = World(hazards=swings, batch=lambda time: 32, seed=seed)
    best_static = max(play(spec, world, 96.0).goodput for spec in STATICS)
    bandit = play("bandit", world, 96.0, seed=seed).goodput
    assert bandit > 1.08 * best_static
    assert bandit > 0.97 * play("oracle", world, 96.0).goodput


def test_no_static_k_serves_both_loads_as_well() -> None:
    """Batch 4 wants K = 5, batch 250 wants K = 2: the bandit is near the best in each phase."""

    def high(time: float) -> bool:
        return int(time / 15) % 2 == 1

    world = World(
        batch=lambda time: 250 if high(time) else 4,
        hazards=lambda time, domain, version: shifted(HAZARDS, 0.6),
    )

    def both(spec: str) -> np.ndarray:
        log = play(spec, world, 240.0)
        return np.array([log.goodput_at(250, after=60.0), log.goodput_at(4, after=60.0)])

    statics = np.array([both(spec) for spec in STATICS])
    regret = 1.0 - statics / statics.max(axis=0)
    assert regret.max(axis=1).min() > 0.035
    assert (1.0 - both("bandit") / statics.max(axis=0)).max() < 0.025


def test_costs_little_where_there_is_nothing_to_adapt_to() -> None:
    world = World()
    assert play("bandit", world, 120.0).goodput > 0.99 * play("static:3", world, 120.0).goodput


def test_follows_a_shift_within_a_few_ticks() -> None:
    world = World(hazards=lambda time, domain, version: shifted(HAZARDS, 1.2 if time < 20 else -2.5))
    log = play("bandit", world, 40.0)
    first = next(i for i, time in enumerate(log.time) if time >= 20.0)
    settled = [i for i in range(first, len(log.k)) if log.k[i] <= 1]
    assert settled[0] - first <= 3
    assert np.mean([k <= 1 for k in log.k[settled[0] :]]) > 0.9


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_returns_from_k_zero_when_acceptance_returns(seed: int) -> None:
    def collapse(time: float, domain: str, version: int) -> np.ndarray:
        return shifted(HAZARDS, -3.5 if 10 < time < 60 else 0.8)

    world = World(hazards=collapse, batch=lambda time: 100, seed=seed)
    log = play("bandit", world, 140.0, seed=seed)
    time, k = np.array(log.time), np.array(log.k)
    assert np.mean(k[(time > 20) & (time < 60)] == 0) > 0.8, "it should have switched speculation off"
    assert np.mean(k[time > 110] >= 3) > 0.9
    goodput = play("goodput", world, 140.0)
    assert goodput.k[-1] == 0, "without probing there is no way back"
    assert log.goodput > goodput.goodput


def test_probing_at_k_zero_stays_within_its_budget() -> None:
    world = World(hazards=lambda time, domain, version: np.full(7, 0.02), batch=lambda time: 150)
    best = play("static:0", world, 300.0).goodput
    assert play("bandit", world, 300.0).goodput > 0.98 * best


def restless(seed: int, deviation: float = 0.2, lasting: float = 1.5) -> World:
    """A server whose steps take 20% longer or shorter for a second or two, whatever K is; drafts are worth nothing
    after 10 s."""
    rng, keep, factors = np.random.default_rng(seed), np.exp(-0.1 / lasting), [0.0]
    for _ in range(700):
        factors.append(keep * factors[-1] + deviation * np.sqrt(1.0 - keep**2) * rng.normal())
    world = World(
        hazards=lambda time, domain, version: shifted(HAZARDS, 0.5 if time < 10 else -9.0),
        batch=lambda time: 4,
        seed=seed,
    )
    world.seconds = lambda shape: predict(shape) * float(np.exp(factors[int(world.time / 0.1)]))
    return world


def test_a_restless_machine_does_not_make_drafts_look_cheap() -> None:
    """Taken for the price of K, the moments at which each K happened to run keep useless drafts going."""
    logs = [restless(seed).run(Bandit(), context(seed=seed, price_spread=0.15), 60.0) for seed in range(8)]
    idle = [np.mean(np.array(log.k)[np.array(log.time) > 14] == 0) for log in logs]
    assert np.mean(idle) > 0.75
    assert np.median(idle) > 0.9


def test_a_wrong_latency_model_is_repaired() -> None:
    def slow_drafter(shape: StepShape) -> float:
        return 0.7 * predict(shape) + 3.5e-3 * shape.draft_passes

    world = World(seconds=slow_drafter)
    best = play("static:0", world, 200.0).goodput
    assert play("schedule", world, 200.0).goodput < 0.75 * best
    assert play("bandit", world, 200.0).goodput > 0.95 * best


def improving(time: float, domain: str, version: int) -> np.ndarray:
    return shifted(HAZARDS, 0.3 * (version + 1))


def test_publishes_what_is_better() -> None:
    world = World(hazards=improving, candidates={20.0: 1, 50.0: 2, 80.0: 3})
    log = play("bandit", world, 120.0, trainer=True)
    assert set(log.version) == {-1, 1, 2, 3}
    assert log.swaps == 3
    assert log.goodput > 1.1 * play("static:3", world, 120.0).goodput


def test_does_not_publish_what_is_worse_or_not_worth_the_stall() -> None:
    worse = World(hazards=lambda t, d, version: shifted(HAZARDS, -0.5 * (version > 0)), candidates={20.0: 1})
    assert play("bandit", worse, 80.0, trainer=True).swaps == 0
    slight = World(hazards=lambda t, d, v: shifted(HAZARDS, 0.1 * (v > 0)), candidates={20.0: 1}, stall=10.0)
    assert play("bandit", slight, 80.0, trainer=True, swap_stall=10.0).swaps == 0


def test_does_not_publish_on_noise() -> None:
    """Equal drafters whose held-out figures differ by less than their error."""
    noise = np.random.default_rng(0)

    def heldout(time: float, domain: str, version: int) -> float:
        return 2.6 + 0.03 * noise.normal()

    candidates = {10.0 * i: i for i in range(1, 12)}
    log = play("bandit", World(heldout=heldout, candidates=candidates), 130.0, trainer=True)
    assert log.swaps <= 2


def test_rolls_back_when_live_traffic_contradicts_the_held_out_figure() -> None:
    def corrupt(time: float, domain: str, version: int) -> np.ndarray:
        return shifted(HAZARDS, -1.5 * (version > 0))

    world = World(
        hazards=corrupt, candidates={20.0: 1}, heldout=lambda time, domain, version: 2.6 + 0.5 * (version > 0)
    )
    log = play("bandit", world, 80.0, trainer=True)
    bad = [time for time, version in zip(log.time, log.version, strict=True) if version == 1]
    assert bad, "the false promise should have been believed once"
    assert bad[-1] - bad[0] < 5.0
    assert log.plans[-1].drafter == STATIC


def test_falls_back_to_static_after_a_shift_and_returns_to_trained() -> None:
    """Trained weights that are better on one domain and worse on the other (A B A)."""

    def by_domain(time: float, domain: str, version: int) -> np.ndarray:
        return shifted(HAZARDS, {"a": 0.8, "b": -1.2}[domain] * (version > 0))

    def mix(time: float) -> dict[str, float]:
        return {"a": 1.0 - 1e-9, "b": 1e-9} if time % 100 < 50 else {"a": 1e-9, "b": 1.0 - 1e-9}

    log = play("bandit", World(hazards=by_domain, mix=mix, candidates={15.0: 1}), 150.0, trainer=True)
    time, version = np.array(log.time), np.array(log.version)
    assert set(version[(time > 30) & (time < 50)]) == {1}
    assert np.mean(version[(time > 65) & (time < 100)] == -1) > 0.95
    assert np.mean(version[time > 125] == 1) > 0.95


def test_a_failed_swap_is_retried_later_and_less_often() -> None:
    world = World(hazards=improving, candidates={10.0: 1}, swap_ok=lambda time: time > 45)
    log = play("bandit", world, 100.0, trainer=True)
    assert log.version[-1] == 1
    assert log.swaps <= 4


def test_pauses_a_trainer_that_shows_nothing_and_wakes_it_on_a_shift() -> None:
    settings = BanditSettings(patience=50.0)
    world = World(hazards=lambda time, domain, version: shifted(HAZARDS, -1.5 if time > 75 else 0.0))
    log = world.run(Bandit(settings), context(trainer=True), 95.0)
    on = np.array([plan.train.on for plan in log.plans])
    time = np.array(log.time)
    assert on[time < 45].all()
    assert not on[(time > 55) & (time < 75)].any()
    assert on[time > 85].all()


def test_traffic_that_the_learner_saw_shift_is_judged_by_its_new_mix_and_trained_on() -> None:
    """While nothing is drafted no mix is seen; the learner sees every trace."""
    bandit = Bandit(BanditSettings(patience=10.0))
    bandit.reset(context(trainer=True))
    old = {("old", "t"): PositionCounts((320, 200), (200, 90))}
    for i in range(20):
        plan = bandit.decide(
            Observation(time=float(i), running=8, positions=old, trainer=TrainerState(alive=True))
        )
    assert not plan.train.on
    assert bandit._traffic.domain_mix() == {"old": pytest.approx(1.0)}
    shifted_now = TrainerState(alive=True, shifts=1)
    plan = bandit.decide(Observation(time=20.0, running=8, trainer=shifted_now))
    assert plan.train.on
    assert bandit._traffic.domain_mix() == {}
    new = {("new", "t"): PositionCounts((64,), (8,))}
    bandit.decide(Observation(time=21.0, running=8, positions=new, trainer=shifted_now))
    assert bandit._traffic.domain_mix()["new"] == pytest.approx(1.0)


def test_propensities_are_those_of_the_choices_made() -> None:
    """Among ticks logged with probability p or 1 - p, the share of p's matches."""
    log = play("bandit", World(hazards=lambda t, d, v: np.full(7, 0.05), batch=lambda t: 150), 600.0)
    chances = np.array([plan.propensity for plan in log.plans])
    probes = chances < 0.5
    rare = np.where(probes, chances, 1.0 - chances)
    assert probes.sum() > 5
    assert probes.sum() == pytest.approx(rare.sum(), abs=3 * np.sqrt(rare.sum()))


def test_labels_without_end_stay_bounded() -> None:
    policy = make("bandit")
    policy.reset(context())
    counts = PositionCounts((320, 200), (200, 90))
    for i in range(300):
        plan = policy.decide(Observation(time=float(i), running=8, positions={(f"d{i}", "t"): counts}))
    assert plan.max_k <= 7
