"""Every registered policy keeps the contract; and the check finds policies that do not."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import ClassVar

import pytest
from policy_world import context

import harness.policy
from harness.contract import STATIC, TRAINED, Observation, Plan, TrainPlan, constant_k
from harness.policy import ContractBroken, Policy, PolicyContext, check_policy, make, names
from harness.policy.base import Truth
from harness.rng import stream

CONTEXTS = {
    "usual": context(),
    "trainer": context(trainer=True),
    "another seed": context(trainer=True, seed=11),
    "tiny": context(max_k=1, max_batch=1, offline_hazards=(0.5,)),
    "no room for drafts": context(max_k=0, offline_hazards=(), trainer=True),
    "hazards at their ends": context(max_k=4, offline_hazards=(1.0, 0.0), trainer=True, max_batch=37),
    "held out at K=2": context(trainer=True, heldout_k=2),
}


@pytest.mark.parametrize("which", CONTEXTS)
@pytest.mark.parametrize("name", names())
def test_every_policy_keeps_the_contract(name: str, which: str) -> None:
    given = CONTEXTS[which]
    spec = f"static:{min(3, given.max_k)}" if name == "static" else name
    check_policy(lambda: make(spec), given)


class Base(Policy):
    def reset(self, context: PolicyContext) -> Plan:
        self.context = context
        return Plan(constant_k(0), drafter=STATIC)

    def decide(self, observation: Observation) -> Plan:
        return Plan(constant_k(0), drafter=STATIC)


class TooDeep(Base):
    def decide(self, observation: Observation) -> Plan:
        return Plan(constant_k(self.context.max_k + 1))


class Publishes(Base):
    def decide(self, observation: Observation) -> Plan:
        return Plan(constant_k(0), drafter=TRAINED, publish=True)


class Trains(Base):
    def decide(self, observation: Observation) -> Plan:
        return Plan(constant_k(0), train=TrainPlan(on=True))


class TrainsInSecret(Base):
    trains: ClassVar[bool] = False

    def decide(self, observation: Observation) -> Plan:
        return Plan(constant_k(0), train=TrainPlan(on=self.context.trainer))


class NoDrafter(Base):
    uses_drafter: ClassVar[bool] = False

    def decide(self, observation: Observation) -> Plan:
        return Plan(constant_k(1))


class Unseeded(Base):
    draws = stream(0)

    def decide(self, observation: Observation) -> Plan:
        return Plan(constant_k(int(self.draws.integers(0, 7))))


class Mutates(Base):
    def decide(self, observation: Observation) -> Plan:
        observation.positions.clear()  # type: ignore[attr-defined]
        return super().decide(observation)


class Peeks(Base):
    def bind_truth(self, truth: object) -> None:
        pass


class NotAPlan(Base):
    def decide(self, observation: Observation) -> Plan:
        return "K=3"  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (TooDeep, "exceeds max_k"),
        (Publishes, "no candidate is ready"),
        (Trains, "there is no trainer"),
        (NoDrafter, "without a drafter"),
        (Unseeded, "same seed"),
        (Peeks, "accepts the simulator's truth"),
        (NotAPlan, "not a Plan"),
    ],
)
def test_the_check_finds_the_broken_rule(broken: type[Policy], rule: str) -> None:
    with pytest.raises(ContractBroken, match=rule):
        check_policy(broken, context())


def test_the_check_finds_secret_training() -> None:
    with pytest.raises(ContractBroken, match="never does"):
        check_policy(TrainsInSecret, context(trainer=True))


def test_the_check_hands_out_read_only_observations() -> None:
    with pytest.raises(AttributeError, match="clear"):
        check_policy(Mutates, context())


def test_a_sound_policy_passes() -> None:
    check_policy(Base, context())


def test_only_oracles_meet_the_truth() -> None:
    for name in names():
        policy = make("static:1" if name == "static" else name)
        assert policy.needs_truth == name.startswith("oracle")
    truth = Truth((1.0, 1.5), 4, 100.0, None, (1.0, 1.5))
    with pytest.raises(ValueError, match="may not see"):
        make("bandit").bind_truth(lambda: truth)


def test_policies_import_nothing_heavy() -> None:
    allowed = {"numpy", "scipy", "safetensors", "harness"}
    standard = {
        "__future__",
        "abc",
        "bisect",
        "collections",
        "copy",
        "dataclasses",
        "json",
        "math",
        "pathlib",
        "types",
        "typing",
    }
    for file in Path(harness.policy.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {f.split(".")[0] for f in found} <= allowed | standard, file.name
            assert not any(f.startswith(("harness.sim", "harness.live")) for f in found), file.name
