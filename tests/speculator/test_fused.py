"""The chunked linear KL against dense float64; the kernel path in Triton's interpreter, or on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.errors import InputError
from harness.speculator.fused import DIRECTIONS, cross_entropy, linear_kl

ROOT = Path(__file__).parents[2]
N, V, HS, HT = 37, 50, 8, 12


def inputs(dtype: torch.dtype = torch.float64, n: int = N, v: int = V) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(3)
    shapes = ((n, HS), (v, HS), (n, HT), (v, HT))
    x_s, w_s, x_t, w_t = (torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in shapes)
    return x_s.requires_grad_(), w_s.requires_grad_(), x_t, w_t


def dense(x_s: Tensor, w_s: Tensor, x_t: Tensor, w_t: Tensor, direction: str) -> tuple[Tensor, Tensor]:
    logits = x_s @ w_s.T
    log_q, log_p = logits.log_softmax(-1), (x_t @ w_t.T).log_softmax(-1)
    a, b = (log_p, log_q) if direction == "forward" else (log_q, log_p)
    return (a.exp() * (a - b)).sum(-1), logits.logsumexp(-1)


def value_and_gradients(
    f: Callable[..., tuple[Tensor, Tensor]], made: tuple[Tensor, ...], *more: Any, of_lse: float = 0.0
) -> tuple[Tensor, ...]:
    """KL, log-sum-exp, and the gradients of both, the latter times `of_lse`. Rows weighted unequally, so that a
    row's gradient in the wrong place shows."""
    kl, lse = f(*made, *more)
    weight = torch.linspace(-1.0, 2.0, len(kl), dtype=kl.dtype, device=kl.device)
    return kl, lse, *torch.autograd.grad(((kl + of_lse * lse.flip(0)) * weight).sum(), made[:2])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chunk", [1, 8, N, 1000])
def test_value_and_gradients_are_the_dense_ones(direction: str, chunk: int) -> None:
    made = inputs()
    for of_lse in (0.0, 0.7):
        expected = value_and_gradients(dense, made, direction, of_lse=of_lse)
        found = value_and_gradients(linear_kl, made, direction, chunk, of_lse=of_lse)
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_cross_entropy_is_that_of_torch() -> None:
    made, token = inputs(), torch.arange(N) * 7 % V
    x_s, w_s, *_ = made
    loss = cross_entropy(x_s, w_s, linear_kl(*made, chunk=8)[1], token)
    want = torch.nn.functional.cross_entropy(x_s @ w_s.T, token, reduction="none")
    torch.testing.assert_close(loss, want)
    weight = torch.linspace(-1.0, 2.0, N, dtype=torch.float64)
    for a, b in zip(
        *(torch.autograd.grad((t * weight).sum(), (x_s, w_s)) for t in (loss, want)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck(direction: str) -> None:
    x_s, w_s, x_t, w_t = inputs(n=5, v=6)
    assert torch.autograd.gradcheck(lambda x, w: linear_kl(x, w, x_t, w_t, direction, 2), (x_s, w_s))


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, Tensor):
                self.elements = max(self.elements, t.numel())
        return out


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_tensor_is_larger_than_a_chunk_of_logits(direction: str) -> None:
    made, chunk = inputs(), 16
    with Largest() as seen:
        value_and_gradients(linear_kl, made, direction, chunk)
    assert seen.elements == chunk * V < N * V
    with Largest() as seen:
        value_and_gradients(dense, made, direction)
    assert seen.elements == N * V, "the meter sees what it should"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_equal_heads_have_no_loss_and_no_gradient(direction: str) -> None:
    x, w, *_ = inputs()
    loss, _, dx, dw = value_and_gradients(linear_kl, (x, w, x.detach(), w.detach()), direction, 8)
    assert max(t.abs().max() for t in (loss, dx, dw)) < 1e-12


def test_half_precision_is_widened_and_comes_back_as_it_was() -> None:
    made = inputs(torch.bfloat16)
    loss, _, dx, dw = value_and_gradients(linear_kl, made, "forward", 8)
    assert (loss.dtype, dx.dtype, dw.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    exact = value_and_gradients(
        dense, tuple(t.detach().double().requires_grad_(i < 2) for i, t in enumerate(made)), "forward"
    )
    torch.testing.assert_close(loss.double(), exact[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dx.double(), exact[2], rtol=2e-2, atol=2e-2)


def test_a_frozen_head_gets_no_gradient() -> None:
    x_s, w_s, x_t, w_t = inputs()
    frozen = w_s.detach()
    linear_kl(x_s, frozen, x_t, w_t)[0].sum().backward()
    assert x_s.grad is not None
    assert frozen.grad is None


def test_no_rows() -> None:
    made = inputs(n=0)
    loss, lse, _, dw = value_and_gradients(linear_kl, made)
    assert loss.shape == lse.shape == (0,)
    assert not dw.any()


def test_bad_arguments() -> None:
    x_s, w_s, x_t, w_t = inputs()
    with pytest.raises(InputError, match="must be one of forward, reverse"):
        linear_kl(x_s, w_s, x_t, w_t, "sideways")
    with pytest.raises(InputError, match="chunk is 0"):
        linear_kl(x_s, w_s, x_t, w_t, chunk=0)
    for bad in (
        (x_s[:3], w_s, x_t, w_t),
        (x_s, w_s[:3], x_t, w_t),
        (x_s, w_t, x_t, w_t),
        (x_s[0], w_s, x_t, w_t),
    ):
        with pytest.raises(InputError, match="have shapes"):
            linear_kl(*bad)


KERNEL = """
import sys, torch
from harness.speculator import fused
from tests.speculator.test_fused import dense, inputs, value_and_gradients
assert not any(name.partition(".")[0] in ("kernels", "triton") for name in sys.modules), "imported early"
fused.on_gpu = lambda x: True
made = tuple(t.detach().repeat(1, 8).requires_grad_(i < 2) for i, t in enumerate(inputs(torch.float32)))
for direction in fused.DIRECTIONS:
    got = value_and_gradients(fused.linear_kl, made, direction, of_lse=0.7)
    for a, b in zip(got, value_and_gradients(dense, made, direction, of_lse=0.7), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
assert "kernels.linear_kl" in sys.modules
"""


def test_the_kernel_path_in_the_interpreter() -> None:
    """The real kernel, reached as a CUDA tensor would; a fresh process, as Triton reads its switch on import."""
    pytest.importorskip("triton", reason="the kernels extra is not installed")
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", KERNEL], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_kernel_path_on_a_gpu(direction: str) -> None:
    made = tuple(
        t.detach().repeat(1, 8).cuda().requires_grad_(i < 2) for i, t in enumerate(inputs(torch.float32))
    )
    found = value_and_gradients(linear_kl, made, direction, of_lse=0.7)
    for a, b in zip(found, value_and_gradients(dense, made, direction, of_lse=0.7), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
