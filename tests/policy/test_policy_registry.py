"""Specifications to policies, and clear refusals."""

from __future__ import annotations

import pytest
from policy_world import context

from harness.errors import InputError, UnknownName
from harness.policy import DEFAULT_ARMS, make, names, usage
from harness.policy.bandit import BanditSettings
from harness.policy.base import PolicyContext
from harness.policy.cadence import Cadence
from harness.policy.static import StaticK


def test_specifications() -> None:
    assert isinstance(make("static:3"), StaticK)
    assert make("static:3").k == 3  # type: ignore[attr-defined]
    cadence = make("cadence:250@4")
    assert isinstance(cadence, Cadence)
    assert (cadence.every, cadence.k) == (250, 4)
    assert (make("cadence").every, make("cadence:@2").k) == (None, 2)  # type: ignore[attr-defined]
    assert make("cadence:48@6").name == "cadence:48@6"
    assert make("bandit:0.35").settings.speed_worth == 0.35  # type: ignore[attr-defined]
    assert make("bandit").settings.speed_worth == BanditSettings().speed_worth  # type: ignore[attr-defined]


def test_every_default_arm_can_be_made_and_starts() -> None:
    for spec in DEFAULT_ARMS:
        policy = make(spec)
        if not policy.needs_truth:
            policy.reset(context(trainer=True))
    assert {spec.partition(":")[0] for spec in DEFAULT_ARMS} <= set(names())
    assert [u.partition("[")[0] for u in usage()] == list(names())


@pytest.mark.parametrize(
    "spec",
    ["static:-1", "static:x", "static:", "static", "static:2.5", "static:٣", "cadence:0", "cadence:x@3",
     "cadence:4@", "cadence:400@-1", "bandit:x", "bandit:-1", "bandit:nan", "bandit:inf", "none:0", "schedule:x"],
)  # fmt: skip
def test_nonsense_is_refused_with_a_sentence(spec: str) -> None:
    with pytest.raises(InputError, match=r"must be|takes no argument"):
        make(spec)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'bandit'"):
        make("bandits")


@pytest.mark.parametrize("spec", ["static:99", "cadence:400@99"])
def test_k_beyond_the_engine_is_refused_at_reset(spec: str) -> None:
    with pytest.raises(InputError, match=r"K = 99, but this engine allows at most 7"):
        make(spec).reset(context())


@pytest.mark.parametrize(
    "changes",
    [{"max_k": -1}, {"max_batch": 0}, {"offline_hazards": ()}, {"offline_hazards": (1.2,)},
     {"offline_hazards": (float("nan"),)}, {"mean_context": float("inf")}, {"swap_stall": -1.0},
     {"publish_requests": 0}, {"heldout_k": 0}, {"typical_batch": 0}, {"price_spread": 0.0}],
)  # fmt: skip
def test_a_context_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        context(**changes)


def test_offline_hazards_are_padded_and_kept_off_the_ends() -> None:
    hazards = PolicyContext(4, 8, lambda s: 1.0, (1.0, 0.3)).hazards
    assert hazards.tolist() == [0.995, 0.3, 0.3, 0.3]
    assert context(heldout_k=20).reference_k == 7
