"""RMSNorm, SwiGLU and rotary with KV write against fp64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import rmsnorm, rotary, swiglu
from kernels.common import relative_error


@pytest.mark.usefixtures("interpreter")
@settings(max_examples=5, deadline=None)
@given(
    rows=st.integers(1, 5), hidden=st.integers(3, 130), dtype=st.sampled_from([torch.float32, torch.float16])
)
def test_rmsnorm(rows: int, hidden: int, dtype: torch.dtype) -> None:
    made = rmsnorm.inputs(rmsnorm.NormShape(rows, hidden), "cpu", dtype, hidden)
    limit = 1e-5 if dtype == torch.float32 else 1e-3
    assert relative_error(made, rmsnorm.rmsnorm(**made), rmsnorm.reference(**made)) < limit


@pytest.mark.usefixtures("interpreter")
def test_norm_into_writes_its_half_of_a_wider_buffer() -> None:
    x, weight = torch.randn(3, 40), torch.randn(40)
    both = torch.full((3, 80), 7.0)
    rmsnorm.norm_into(both[:, 40:], x, weight)
    expected, _ = rmsnorm.reference(x, torch.zeros_like(x), weight)
    assert relative_error({}, (both[:, 40:],), (expected,)) < 1e-5
    assert (both[:, :40] == 7.0).all()


@pytest.mark.usefixtures("interpreter")
@settings(max_examples=4, deadline=None)
@given(rows=st.integers(1, 4), width=st.integers(1, 1100))
def test_swiglu(rows: int, width: int) -> None:
    made = swiglu.inputs(swiglu.SwigluShape(rows, width), "cpu", torch.float32, width)
    assert relative_error(made, swiglu.run(**made), swiglu.reference(**made)) < 1e-5


@pytest.mark.usefixtures("interpreter")
@settings(max_examples=5, deadline=None)
@given(tokens=st.integers(1, 5), heads=st.sampled_from([(2, 1), (8, 2), (9, 3)]), norm=st.booleans())
def test_rotary(tokens: int, heads: tuple[int, int], norm: bool) -> None:
    made = rotary.inputs(rotary.RotaryShape(tokens, *heads, 16, norm), "cpu", torch.float32, tokens)
    assert rotary.error(made, rotary.run(**made), rotary.reference(**made)) < 1e-5


@pytest.mark.usefixtures("interpreter")
def test_rotary_leaves_other_slots_alone_and_skips_padding() -> None:
    made = rotary.inputs(rotary.RotaryShape(3, 2, 1, 16), "cpu", torch.float32, 0)
    made["slots"][1] = -1
    out = rotary.run(**made)
    assert rotary.error(made, out, rotary.reference(**made)) < 1e-5
    for cache in out[1:]:
        assert int(cache.isfinite().all(-1).sum()) == 2, "two of three tokens are stored, the rest stays NaN"


def test_angles_at_position_zero_and_one() -> None:
    table = rotary.angles(2, 4, "cpu", base=100.0)
    assert torch.equal(table[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert torch.allclose(table[1], torch.tensor([1.0, 0.1, 1.0, 0.1]).where(torch.zeros(4).bool(), table[1]))
    assert torch.allclose(table[1][2:], torch.tensor([1.0, 0.1]).sin())
