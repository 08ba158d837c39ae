"""Fused linear + KL: loss and gradients against fp64 autograd over materialised logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.common import AMPERE, HOPPER, Chip, on_chip, relative_error
from kernels.kl import (
    DIRECTIONS,
    KlConfig,
    KlShape,
    inputs,
    inputs_backward,
    kl_backward,
    kl_forward,
    reference,
    reference_backward,
)
from kernels.linear_kl import linear_kl

SMALL = KlConfig(bt=16, bv=32, bk=32, warps=4, stages=1, chunk=64)


@pytest.mark.usefixtures("interpreter")
@settings(max_examples=4, deadline=None)
@given(
    tokens=st.integers(1, 20),
    vocab=st.integers(20, 130),
    direction=st.sampled_from(DIRECTIONS),
    chip=st.sampled_from([HOPPER, AMPERE]),
)
def test_loss_and_gradients(tokens: int, vocab: int, direction: str, chip: Chip) -> None:
    made = inputs_backward(KlShape(tokens, vocab, 64, direction), "cpu", torch.float32, vocab)
    weight = made.pop("weight") * (1 + torch.arange(tokens))
    with on_chip(chip):
        saved = kl_forward(**made, cfg=SMALL)
        gradients = kl_backward(weight, saved, **made, cfg=SMALL)
    assert relative_error(made, (saved[0],), reference(**made)) < 1e-5
    assert relative_error(made, gradients, reference_backward(weight=weight, **made)) < 1e-5


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_log_sum_exp_has_a_gradient_of_its_own(direction: str) -> None:
    """With it, cross-entropy with a text costs nothing more than the KL."""
    made = inputs(KlShape(7, 70, 64, direction), "cpu", torch.float32, 3)
    made.pop("direction")
    leaves = {name: t.requires_grad_(name in ("x_s", "w_s")) for name, t in made.items()}
    kl, lse = linear_kl(**leaves, direction=direction, cfg=SMALL)
    weight = torch.linspace(0.5, 2.0, 7)
    found = torch.autograd.grad((kl + weight * lse).sum(), (leaves["x_s"], leaves["w_s"]))
    wide = {name: t.detach().double().requires_grad_(name in ("x_s", "w_s")) for name, t in made.items()}
    logits = wide["x_s"] @ wide["w_s"].T
    loss = (reference(direction, **wide)[0] + weight * logits.logsumexp(-1)).sum()
    expected = torch.autograd.grad(loss, (wide["x_s"], wide["w_s"]))
    assert relative_error({}, (lse.detach(),), (logits.logsumexp(-1).detach(),)) < 1e-5
    assert relative_error({}, found, expected) < 1e-5


@pytest.mark.usefixtures("interpreter")
def test_hidden_sizes_may_differ() -> None:
    made = inputs(KlShape(5, 40, 64), "cpu", torch.float32, 0)
    made["x_t"], made["w_t"] = torch.randn(5, 96), torch.randn(40, 96) / 8
    assert relative_error(made, (kl_forward(**made, cfg=SMALL)[0],), reference(**made)) < 1e-5


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_autograd_function(direction: str) -> None:
    made = inputs(KlShape(6, 70, 64, direction), "cpu", torch.float32, 2)
    x = made["x_s"].requires_grad_()
    loss, _ = linear_kl(x, made["w_s"], made["x_t"], made["w_t"], direction, SMALL)
    loss.sum().backward()
    expected = reference_backward(**{**made, "x_s": x.detach()}, weight=torch.ones(6))[0]
    assert relative_error({}, (x.grad,), (expected,)) < 1e-5
    assert made["w_s"].grad is None, "a frozen head gets no gradient, and none is computed"


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_equal_student_has_no_loss_and_no_gradient(direction: str) -> None:
    made = inputs(KlShape(4, 50, 64, direction), "cpu", torch.float32, 5)
    made["x_s"], made["w_s"] = made["x_t"], made["w_t"]
    saved = kl_forward(**made, cfg=SMALL)
    dx, _ = kl_backward(torch.ones(4), saved, **made, cfg=SMALL)
    assert saved[0].abs().max() < 1e-5
    assert dx.abs().max() < 1e-5


def test_bad_arguments() -> None:
    made = inputs(KlShape(4, 50, 64), "meta", torch.float32, 0)
    with pytest.raises(ValueError, match="must be one of forward, reverse"):
        kl_forward(**{**made, "direction": "sideways"})
    with pytest.raises(ValueError, match="must share tokens and vocabulary"):
        kl_forward(**{**made, "w_t": made["w_t"][:40]})
