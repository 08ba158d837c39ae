"""Training objectives: closed forms on tiny vocabularies, masks, and exact enumeration of drafting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.errors import InputError, UnknownName
from harness.speculator.objectives import (
    OBJECTIVES,
    Rows,
    applies,
    check_weights,
    combine,
    objective,
    policy_gradient,
)

DISTRIBUTIONS = ("forward_kl", "discard", "reverse_kl", "total_variation", "log_acceptance")
SMOOTH = ("forward_kl", "discard", "reverse_kl")


def make(student: Tensor, teacher: Tensor | None = None, **given: Any) -> Rows:
    """Rows offered and refused, at depth 0 of a step each, unless given otherwise."""
    n = len(student)
    teacher = torch.zeros_like(student).detach() if teacher is None else teacher
    fields: dict[str, Any] = {
        "teacher_lse": teacher.logsumexp(-1),
        "token": [0] * n,
        "drafted": [0] * n,
        "old_logq": student.detach().log_softmax(-1)[:, 0],
        "offered": [True] * n,
        "taken": [False] * n,
        "counterfactual": [False] * n,
        "return_": torch.zeros(n, dtype=student.dtype),
        "depth": [0] * n,
        "step": range(n),
    } | given
    tensors = {k: v if isinstance(v, Tensor) else torch.tensor(list(v)) for k, v in fields.items()}
    return Rows(student=student, teacher=teacher, **tensors)


def logits(seed: int, n: int = 4, v: int = 5) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, v)) * 1.5)


def gradient(f: Callable[[Rows], Tensor], student: Tensor, teacher: Tensor, **given: Any) -> Tensor:
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(f(make(leaf, teacher, **given)).sum(), leaf)[0]


def softmax(x: Tensor) -> np.ndarray:
    e = np.exp(x.numpy() - x.numpy().max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def expected(name: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    forward, reverse = (p * np.log(p / q)).sum(-1), (q * np.log(q / p)).sum(-1)
    beta = np.minimum(p, q).sum(-1)
    return {
        "forward_kl": forward,
        "discard": forward,
        "reverse_kl": reverse,
        "total_variation": 1 - beta,
        "log_acceptance": -np.log(beta),
        "next_token": -np.log(q[:, 0]),
    }[name]


@pytest.mark.parametrize("name", [*DISTRIBUTIONS, "next_token"])
def test_values(name: str) -> None:
    s, t = logits(1), logits(2)
    got = objective(name)(make(s, t)).numpy()
    np.testing.assert_allclose(got, expected(name, softmax(t), softmax(s)), rtol=1e-12)


def test_values_by_hand() -> None:
    """q = (1/2, 1/2), p = (3/4, 1/4)."""
    rows = make(torch.zeros(1, 2).double(), torch.tensor([[3.0, 1.0]]).double().log())
    assert objective("forward_kl")(rows).item() == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2))
    assert objective("reverse_kl")(rows).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert objective("total_variation")(rows).item() == pytest.approx(0.25)
    assert objective("log_acceptance")(rows).item() == pytest.approx(-math.log(0.75))
    assert objective("next_token")(rows).item() == pytest.approx(math.log(2))


def test_gradients_are_the_analytic_ones() -> None:
    s, t = logits(3), logits(4)
    p, q = softmax(t), softmax(s)
    log_ratio = np.log(q / p)
    np.testing.assert_allclose(gradient(objective("forward_kl"), s, t), q - p, atol=1e-12)
    np.testing.assert_allclose(gradient(objective("discard"), s, t), q - p, atol=1e-12)
    reverse = q * (log_ratio - (q * log_ratio).sum(-1, keepdims=True))
    np.testing.assert_allclose(gradient(objective("reverse_kl"), s, t), reverse, atol=1e-12)
    np.testing.assert_allclose(gradient(objective("next_token"), s, t), q - np.eye(5)[[0] * 4], atol=1e-12)
    below = q * (q < p)
    tv = -(below - q * below.sum(-1, keepdims=True))
    np.testing.assert_allclose(gradient(objective("total_variation"), s, t), tv, atol=1e-12)
    beta = np.minimum(p, q).sum(-1, keepdims=True)
    np.testing.assert_allclose(gradient(objective("log_acceptance"), s, t), tv / beta, atol=1e-12)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_gradients_by_finite_differences(name: str) -> None:
    """On a pruned vocabulary, where the target's probabilities sum to 0.7."""
    t = logits(6)
    lse = t.logsumexp(-1) - math.log(0.7)
    f = objective(name)
    assert torch.autograd.gradcheck(
        lambda s: f(make(s, t, teacher_lse=lse)), logits(5).requires_grad_(), eps=1e-7, atol=1e-6
    )


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_drafter_equal_to_its_target_has_nothing_to_learn(name: str) -> None:
    s = logits(7)
    assert objective(name)(make(s, s + 3.0)).abs().max() < 1e-12
    if name in SMOOTH:
        assert gradient(objective(name), s, s + 3.0).abs().max() < 1e-12


@pytest.mark.parametrize("name", sorted(set(DISTRIBUTIONS) - set(SMOOTH)))
def test_the_kink_at_equality(name: str) -> None:
    """Exact ties have no gradient, and every step away from them costs its length's worth."""
    s = torch.zeros(1, 4).double()
    assert gradient(objective(name), s, s).abs().max() == 0
    for direction in logits(12, 8, 4):
        near, far = (objective(name)(make(s + x * direction, s)).item() for x in (1e-4, 2e-4))
        assert far == pytest.approx(2 * near, rel=1e-3)
        assert near > 1e-6


@pytest.mark.parametrize("mass", [1.0, 0.6])
def test_total_variation_is_what_speculative_sampling_refuses(mass: float) -> None:
    """Enumerated: draft v with q(v), accept it with min(1, p(v) / q(v)); p has `mass` in the draft vocabulary."""
    s, t = logits(8), logits(9)
    p, q = softmax(t) * mass, softmax(s)
    accepted = sum(q[:, v] * np.minimum(1.0, p[:, v] / q[:, v]) for v in range(5))
    rows = make(s, t, teacher_lse=t.logsumexp(-1) - math.log(mass))
    np.testing.assert_allclose(objective("total_variation")(rows), 1 - accepted, rtol=1e-12)
    np.testing.assert_allclose(objective("log_acceptance")(rows), -np.log(accepted), rtol=1e-12)


def test_log_acceptance_still_learns_where_nothing_overlaps() -> None:
    s, t = torch.tensor([[200.0, 0.0]]).float(), torch.tensor([[0.0, 200.0]]).float()
    assert objective("log_acceptance")(make(s, t)).item() == pytest.approx(200 - math.log(2), rel=1e-5)
    g = gradient(objective("log_acceptance"), s, t)
    assert g.abs().max() > 0.4
    assert gradient(objective("total_variation"), s, t).abs().max() < 1e-6


MASKED = {
    "offered": [True, True, False, False, True],
    "taken": [True, False, False, False, True],
    "counterfactual": [False, False, True, False, False],
    "token": [1, 2, 3, -1, -1],
    "drafted": [1, 0, 2, 3, -1],
}
APPLIES = {name: [True, True, False, True, True] for name in OBJECTIVES} | {
    "discard": [False, True, True, False, False],
    "next_token": [True, True, False, False, False],
    "policy_gradient": [True, True, False, False, False],
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rows_left_out_have_no_loss_and_no_gradient(name: str) -> None:
    """Exactly: what such rows hold, NaN included, cannot leak. The others keep what they have alone."""
    s, t = logits(10, 5), logits(11, 5)
    mask = torch.tensor(APPLIES[name])
    returns = torch.tensor([2.0, 0, 0, 0, 1]).double()
    assert applies(name, make(s, t, **MASKED)).tolist() == mask.tolist()
    poisoned = s.masked_fill(~mask[:, None], math.nan)
    leaf = poisoned.requires_grad_()
    loss = objective(name)(make(leaf, t, return_=returns, old_logq=torch.full((5,), -1.0).double(), **MASKED))
    (g,) = torch.autograd.grad(loss.sum(), leaf)
    assert (loss[~mask] == 0).all()
    assert (g[~mask] == 0).all()
    assert loss[mask].isfinite().all()
    assert (g[mask] != 0).any(-1).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_rows_to_learn_from(name: str) -> None:
    nothing = {"offered": [False] * 4, "token": [-1] * 4}
    masked = {**nothing, "counterfactual": [name not in ("discard", "policy_gradient")] * 4}
    s = logits(1).requires_grad_()
    loss, terms = combine(make(s, **masked), {name: 1.0})
    assert loss.item() == 0
    assert terms == {name: 0.0}
    assert not torch.autograd.grad(loss, s)[0].any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_half_precision_logits_give_float32_losses(name: str) -> None:
    s, t = logits(1).bfloat16(), logits(2).bfloat16()
    rows = make(s, t)
    assert objective(name)(rows).dtype == torch.float32
    wide = make(s.double(), t.double(), old_logq=rows.old_logq, teacher_lse=t.double().logsumexp(-1))
    narrow = replace(rows, teacher_lse=wide.teacher_lse.float())
    torch.testing.assert_close(objective(name)(narrow).double(), objective(name)(wide), rtol=1e-4, atol=1e-4)


# --- policy gradient: drafting enumerated --------------------------------------------------------------

A0 = torch.tensor([0.9, 0.3, 0.5]).double()
"""Probability that the target accepts a first draft: a fixed table, as the score function requires."""
A1 = torch.tensor([[0.2, 0.7, 0.4], [0.8, 0.1, 0.6], [0.3, 0.95, 0.5]]).double()
"""The second's, by first and second draft."""
Outcome = tuple[float, int, int, int]
"""(probability, first draft, second draft, accepted)."""


class Policy:
    """A drafter of two tokens out of three: the second's logits depend on the first."""

    def __init__(self, seed: int) -> None:
        g = np.random.default_rng(seed)
        self.first = torch.tensor(g.normal(size=3)).requires_grad_()
        self.second = torch.tensor(g.normal(size=(3, 3))).requires_grad_()

    def expected_length(self) -> Tensor:
        q0, q1 = self.first.softmax(-1), self.second.softmax(-1)
        return (q0 * A0 * (1 + (q1 * A1).sum(-1))).sum()

    def gradient_of(self, value: Tensor) -> Tensor:
        grads = torch.autograd.grad(value, (self.first, self.second))
        return torch.cat([g.flatten() for g in grads])

    def outcomes(self) -> Iterator[Outcome]:
        q0, q1 = self.first.softmax(-1).detach(), self.second.softmax(-1).detach()
        for a, b in itertools.product(range(3), range(3)):
            chain = float(q0[a] * q1[a, b])
            yield chain * float(1 - A0[a]), a, b, 0
            yield chain * float(A0[a] * (1 - A1[a, b])), a, b, 1
            yield chain * float(A0[a] * A1[a, b]), a, b, 2


def rows_of(new: Policy, old: Policy, outcomes: list[Outcome]) -> Rows:
    """Two rows per outcome, each outcome a verify step."""
    n = len(outcomes)
    a, b, accepted = (torch.tensor([o[i] for o in outcomes]) for i in (1, 2, 3))
    old_logq = [old.first.log_softmax(-1)[a], old.second.log_softmax(-1)[a, b]]
    offered = torch.stack([torch.ones(n, dtype=torch.bool), accepted >= 1], 1).flatten()
    returns = torch.stack([accepted, (accepted - 1).clamp(min=0)], 1).flatten().double()
    return make(
        torch.stack([new.first.expand(n, 3), new.second[a]], 1).flatten(0, 1),
        drafted=torch.stack([a, b], 1).flatten(),
        old_logq=torch.stack(old_logq, 1).flatten().detach(),
        offered=offered,
        taken=returns > 0,
        return_=returns,
        depth=torch.tensor([0, 1]).repeat(n),
        step=torch.arange(n).repeat_interleave(2),
    )


def expected_gradient(new: Policy, old: Policy, change: Callable[[Rows], Rows] = lambda r: r) -> Tensor:
    """Of the estimator without its baseline, over everything that the old drafter may do."""
    outcomes = list(old.outcomes())
    losses = policy_gradient(change(rows_of(new, old, outcomes)), clip=None, baseline=False)
    chance = torch.tensor([o[0] for o in outcomes], dtype=torch.float64).repeat_interleave(2)
    return new.gradient_of((losses * chance).sum())


def test_the_enumeration_is_complete() -> None:
    outcomes = list(Policy(0).outcomes())
    assert sum(o[0] for o in outcomes) == pytest.approx(1)
    length = sum(o[0] * o[3] for o in outcomes)
    assert length == pytest.approx(Policy(0).expected_length().item(), rel=1e-12)


def test_policy_gradient_is_the_gradient_of_the_accepted_length() -> None:
    new = Policy(0)
    exact = -new.gradient_of(new.expected_length())
    torch.testing.assert_close(expected_gradient(new, new), exact, rtol=1e-10, atol=1e-12)


def test_stale_drafts_give_the_same_gradient() -> None:
    new, old = Policy(0), Policy(1)
    exact = -new.gradient_of(new.expected_length())
    torch.testing.assert_close(expected_gradient(new, old), exact, rtol=1e-10, atol=1e-12)


def test_ratios_must_be_those_of_the_chain() -> None:
    """With each row corrected by its own ratio alone (every row its own step), stale drafts mislead."""

    def apart(rows: Rows) -> Rows:
        return replace(rows, step=torch.arange(len(rows.step)))

    new, old = Policy(0), Policy(1)
    exact = -new.gradient_of(new.expected_length())
    torch.testing.assert_close(expected_gradient(new, new, apart), exact)
    assert (expected_gradient(new, old, apart) - exact).abs().max() > 0.01
    off = (
        (expected_gradient(new, old, lambda r: replace(r, old_logq=r.student.detach()[:, 0])) - exact)
        .abs()
        .max()
    )
    assert off > 0.01, "nor does leaving old probabilities wrong go unnoticed"


@pytest.mark.parametrize("stale", [False, True])
def test_the_leave_one_out_baseline_changes_no_expectation(stale: bool) -> None:
    """Every pair of independent steps, weighted by its probability: twice the gradient of one."""
    new = Policy(0)
    old = Policy(1) if stale else new
    single = [o for o in old.outcomes() if o[0] > 0]
    total = torch.zeros(()).double()
    for x, y in itertools.product(single, single):
        losses = policy_gradient(rows_of(new, old, [x, y]), clip=None)
        total = total + x[0] * y[0] * losses.sum()
    exact = -2 * new.gradient_of(new.expected_length())
    torch.testing.assert_close(new.gradient_of(total), exact, rtol=1e-9, atol=1e-11)


def weights_of(returns: list[float], old_logq: list[float], clip: float | None, **given: Any) -> list[float]:
    """The factor in front of -log q(drafted), where q(drafted) is 1/2."""
    n = len(returns)
    rows = make(
        torch.zeros(n, 2).double(),
        old_logq=torch.tensor(old_logq).double(),
        return_=torch.tensor(returns).double(),
        **given,
    )
    return (policy_gradient(rows, clip) / math.log(2)).tolist()


HALF = math.log(0.5)


def test_baselines_by_hand() -> None:
    """Three steps at depth 0 with returns 3, 0, 1; one at depth 1, which has no other to compare with."""
    given = {"depth": [0, 1, 0, 0], "step": [7, 7, 3, 9]}
    assert weights_of([3, 2, 0, 1], [HALF] * 4, 2.0, **given) == pytest.approx([2.5, 2, -2, -0.5])


def test_ratios_by_hand() -> None:
    """Ratios 1/2 and 4 in one step whose two drafts were accepted: W = 1/2, 2; the last row is a step alone."""
    old = [math.log(1.0), math.log(0.125), math.log(0.05)]
    given = {"depth": [0, 1, 2], "step": [0, 0, 1]}
    assert weights_of([2, 1, 1], old, None, **given) == pytest.approx([0.5 + 2, 2, 10])
    assert weights_of([2, 1, 1], old, 1.5, **given) == pytest.approx([0.5 + 1.5, 1.5, 1.5])


def test_a_missing_row_counts_with_ratio_one() -> None:
    """Depth 1 of a fully accepted chain of three is unknown: its reward stays with depth 0's ratio."""
    old = [math.log(0.25), math.nan, math.log(0.25)]
    given = {"depth": [0, 1, 2], "step": [0, 0, 0], "drafted": [0, -1, 0]}
    assert weights_of([3, 2, 1], old, None, **given) == pytest.approx([2 + 2 + 4, 0, 4])


def test_the_order_of_rows_does_not_matter() -> None:
    new, old = Policy(0), Policy(1)
    rows = rows_of(new, old, list(old.outcomes()))
    order = torch.randperm(len(rows.step), generator=torch.Generator().manual_seed(0))
    shuffled = Rows(**{name: getattr(rows, name)[order] for name in Rows.__slots__})
    torch.testing.assert_close(policy_gradient(shuffled), policy_gradient(rows)[order])


def test_two_rows_in_one_place_are_refused() -> None:
    with pytest.raises(InputError, match="two rows at one depth"):
        policy_gradient(make(logits(1), step=[0, 0, 1, 2]))


# --- weights and their combination ---------------------------------------------------------------------


def test_unknown_names() -> None:
    for call in (objective, lambda n: applies(n, make(logits(1))), lambda n: check_weights({n: 1.0})):
        with pytest.raises(UnknownName, match="did you mean 'forward_kl'"):
            call("forward_lk")


@pytest.mark.parametrize("bad", [{"discard": -1.0}, {"discard": math.nan}, {"discard": math.inf}])
def test_bad_weights(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be finite and at least 0"):
        check_weights({"forward_kl": 1.0} | bad)


@pytest.mark.parametrize("empty", [{}, {"discard": 0.0}])
def test_no_positive_weight(empty: dict[str, float]) -> None:
    with pytest.raises(InputError, match="at least one that is positive"):
        check_weights(empty)


@pytest.mark.parametrize("decay", [0.0, 1.1, math.nan])
def test_bad_decay(decay: float) -> None:
    with pytest.raises(InputError, match="above 0 and at most 1"):
        combine(make(logits(1)), {"forward_kl": 1.0}, decay)


@pytest.mark.parametrize("normalise", [True, False])
def test_combination_by_hand(normalise: bool) -> None:
    s, t = logits(1).requires_grad_(), logits(2)
    rows = make(s, t, depth=[0, 1, 2, 1], taken=[True, True, False, True])
    forward, refused = objective("forward_kl")(rows), objective("discard")(rows)
    decay = torch.tensor([1.0, 0.5, 0.25, 0.5]).double()
    want = {
        "forward_kl": (decay * forward).sum() / 2.25,
        "discard": refused[2] if normalise else 0.25 * refused[2] / 2.25,
    }
    loss, terms = combine(rows, {"forward_kl": 1.0, "discard": 0.3, "reverse_kl": 0.0}, 0.5, normalise)
    assert terms == pytest.approx({name: value.item() for name, value in want.items()}, rel=1e-12)
    total = want["forward_kl"] + 0.3 * want["discard"]
    torch.testing.assert_close(loss, total)
    torch.testing.assert_close(
        torch.autograd.grad(loss, s, retain_graph=True)[0], torch.autograd.grad(total, s)[0]
    )
