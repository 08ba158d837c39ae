"""The contract of a policy as a function: every registered policy passes it, and so must a new one.

In the way of Gymnasium's `env_checker`: it drives the policy through an ordinary run and through odd
observations (nothing ran, unknown labels, deeper counts than the engine allows, dead trainer, failed swap,
new verifier, steps of zero seconds) and says which rule was broken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

from harness.contract import (
    STATIC,
    TRAINED,
    UNKNOWN,
    Observation,
    Plan,
    PositionCounts,
    StepLatency,
    Swap,
    TrainerState,
    check_schedule,
)
from harness.errors import InputError
from harness.latency.shape import decode_shape
from harness.policy.base import Policy, PolicyContext, Truth
from harness.policy.lengths import lengths
from harness.rng import stream

TICKS = 120


class ContractBroken(AssertionError):
    """A policy broke a rule that every policy must keep."""


def check_policy(make: Callable[[], Policy], context: PolicyContext) -> None:
    """Raise ContractBroken unless policies made by `make` keep the contract under `context`.

    `make` must return a new policy at every call.
    """
    observations = scripted_observations(context)
    first = _run(make(), context, observations)
    second = _run(make(), context, observations)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        _require(a == b, f"two policies with the same seed and observations differ at plan {i}: {a} and {b}")
    _check_truth(make, context)


def scripted_observations(context: PolicyContext) -> tuple[Observation, ...]:
    """An ordinary run of TICKS ticks with odd observations strewn in; the same for equal contexts."""
    ordinary = [_ordinary(context, i) for i in range(TICKS)]
    odd = _odd(context)
    every = TICKS // (len(odd) + 1)
    for i, change in enumerate(odd, start=1):
        at = i * every
        ordinary[at] = change(ordinary[at])
    return (Observation(time=0.0), *ordinary)


def _run(policy: Policy, context: PolicyContext, observations: tuple[Observation, ...]) -> list[Plan]:
    if policy.needs_truth:
        policy.bind_truth(lambda: _some_truth(context))
    plans = [policy.reset(context)]
    _check_plan(plan=plans[0], policy=policy, context=context, observation=None)
    for observation in observations:
        before = copy.deepcopy(observation)
        plan = policy.decide(_read_only(observation))
        _require(observation == before, f"decide changed its observation at {observation.time} s")
        _check_plan(plan, policy, context, observation)
        plans.append(plan)
    return plans


def _check_plan(plan: Plan, policy: Policy, context: PolicyContext, observation: Observation | None) -> None:
    where = "reset" if observation is None else f"decide at {observation.time} s"
    _require(isinstance(plan, Plan), f"{where} returned {type(plan).__name__}, not a Plan")
    check_schedule(plan.k_by_batch)
    numbers = [n for row in plan.k_by_batch for n in row]
    _require(
        all(type(n) is int for n in numbers), f"{where}: k_by_batch holds something else than int: {numbers}"
    )
    _require(plan.max_k <= context.max_k, f"{where}: K = {plan.max_k} exceeds max_k = {context.max_k}")
    _require(0.0 < plan.propensity <= 1.0, f"{where}: propensity {plan.propensity} is not in (0, 1]")
    if not policy.uses_drafter:
        _require(plan.max_k == 0, f"{where}: K = {plan.max_k} in an engine without a drafter")
    if plan.train.on:
        _require(context.trainer, f"{where}: trains although there is no trainer")
        _require(policy.trains, f"{where}: trains although its class says that it never does")
    ready = observation is not None and observation.trainer.candidate is not None
    _require(ready or not plan.publish, f"{where}: publishes although no candidate is ready")
    _require(not plan.publish or plan.drafter == TRAINED, f"{where}: publishes but serves {plan.drafter!r}")


def _check_truth(make: Callable[[], Policy], context: PolicyContext) -> None:
    policy = make()
    try:
        if policy.needs_truth:
            policy.reset(context)
        else:
            policy.bind_truth(lambda: _some_truth(context))
    except InputError:
        return
    what = "starts without the truth it needs" if policy.needs_truth else "accepts the simulator's truth"
    raise ContractBroken(f"policy {policy.name or type(policy).__name__!r} {what}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractBroken(message)


# --- the script -------------------------------------------------------------------------------


def _ordinary(context: PolicyContext, tick: int) -> Observation:
    """A tick of 32 steps whose batch swells and ebbs, over two domains; a candidate is ready now and then."""
    draw = stream(context.seed, "policy", "check", tick)
    batch = 1 + int((context.max_batch - 1) * abs((tick % 40) - 20) / 20)
    k = min(3, context.max_k)
    seconds = context.predict(decode_shape(batch, k, context.mean_context))
    published = tick // 30
    heldout = {"chat": 2.4, "code": 2.8}
    return Observation(
        time=1.0 + tick,
        running=batch,
        waiting=int(draw.integers(0, 5)),
        kv_use=0.5,
        mean_context=context.mean_context * (1.0 + 0.3 * (tick % 7)),
        engine_steps=33,
        steps=(StepLatency(batch, k, 32, 32 * seconds, 64 * batch),),
        tokens=64 * batch,
        finished=50,
        positions={
            ("chat", "a"): _counts(draw.binomial, 32 * batch, (0.6, 0.55, 0.5), k),
            ("code", "b"): _counts(draw.binomial, 16 * batch, (0.3, 0.3, 0.3), k),
        },
        drafter=TRAINED if published else STATIC,
        drafter_version=published,
        drafter_age=float(tick % 30),
        trainer=TrainerState(
            alive=context.trainer,
            steps=tick * 10,
            samples=tick * 80,
            candidate=published + 1 if context.trainer and tick % 3 else None,
            heldout_serving=heldout,
            heldout_candidate={"chat": 2.9, "code": 2.9},
            heldout_static=heldout,
            heldout_samples={"chat": 3000, "code": 2000},
        ),
        last_swap=Swap(float(30 * published), published, 0.3) if published else None,
        slo_attainment=0.9,
    )


def _counts(
    binomial: Callable[[int, float], int], steps: int, hazards: tuple[float, ...], k: int
) -> PositionCounts:
    offered, accepted, left = [], [], steps
    for hazard in hazards[:k]:
        offered.append(left)
        left = int(binomial(left, hazard))
        accepted.append(left)
    return PositionCounts(tuple(offered), tuple(accepted))


def _odd(context: PolicyContext) -> list[Callable[[Observation], Observation]]:
    deep = PositionCounts((64,) * (context.max_k + 3), (0,) * (context.max_k + 3))
    zero = (
        StepLatency(4, 0, 0, 0.0, 0),
        StepLatency(4, context.max_k + 5, 3, 0.1, 9),
        StepLatency(0, 0, 1, 0.0, 0),
    )
    failed = Swap(50.0, 7, 2.0, ok=False)
    return [
        lambda o: Observation(time=o.time),
        lambda o: replace(o, positions={(UNKNOWN, UNKNOWN): deep, ("new", "tenant"): PositionCounts()}),
        lambda o: replace(o, steps=zero),
        lambda o: replace(
            o, trainer=replace(o.trainer, alive=False, heldout_samples={}, heldout_candidate={})
        ),
        lambda o: replace(o, last_swap=failed),
        lambda o: replace(o, verifier_version=o.verifier_version + 1),
        lambda o: replace(o, steps=(StepLatency(10 * context.max_batch, 0, 5, 0.5, 50),), mean_context=1e6),
        lambda o: replace(o, positions={(f"label {i}", "t"): PositionCounts((9,), (3,)) for i in range(200)}),
        lambda o: replace(
            o, time=o.time + 0.5, running=0, waiting=0, mean_context=0.0, steps=(), positions={}
        ),
    ]


def _read_only(observation: Observation) -> Observation:
    """The same observation; writing into its mappings raises."""
    trainer = observation.trainer
    guarded = replace(
        trainer,
        heldout_serving=MappingProxyType(dict(trainer.heldout_serving)),
        heldout_candidate=MappingProxyType(dict(trainer.heldout_candidate)),
        heldout_static=MappingProxyType(dict(trainer.heldout_static)),
        heldout_samples=MappingProxyType(dict(trainer.heldout_samples)),
    )
    return replace(observation, positions=MappingProxyType(dict(observation.positions)), trainer=guarded)


def _some_truth(context: PolicyContext) -> Truth:
    now = tuple(lengths(context.hazards).tolist())
    better = tuple(lengths(context.hazards**0.8).tolist())
    return Truth(
        now, max(1, context.max_batch // 2), context.mean_context, better if context.trainer else None, now
    )
