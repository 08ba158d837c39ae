"""Skinny GEMM and feature fusion against fp64, both kinds of loads, with and without split K."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import fusion
from kernels.common import AMPERE, HOPPER, Chip, counters, on_chip, relative_error
from kernels.gemm import TILES, GemmConfig, GemmShape, config, gemm, inputs, reference, shapes
from kernels.models import LLAMA3_8B, PROFILED


@pytest.mark.usefixtures("interpreter")
@settings(max_examples=6, deadline=None)
@given(
    m=st.integers(1, 40),
    n=st.integers(8, 140),
    k=st.sampled_from([64, 128, 256]),
    split=st.integers(1, 3),
    chip=st.sampled_from([HOPPER, AMPERE]),
)
def test_matches_reference(m: int, n: int, k: int, split: int, chip: Chip) -> None:
    made = inputs(GemmShape(m, n, k), "cpu", torch.float32, m * n)
    with on_chip(chip):
        out = gemm(**made, cfg=GemmConfig(16, 64, 64, split, 4, 1))
    assert relative_error(made, (out,), reference(**made)) < 1e-5
    assert not counters(out).any(), "a split product must leave its counters at zero"


@pytest.mark.usefixtures("interpreter")
def test_half_precision() -> None:
    made = inputs(GemmShape(17, 64, 128), "cpu", torch.float16, 0)
    out = gemm(**made, cfg=GemmConfig(32, 64, 64, 2, 4, 1))
    assert relative_error(made, (out,), reference(**made)) < 1e-3


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("split", [1, 2, 3])
def test_fusion_is_the_product_of_the_concatenation(split: int) -> None:
    made = fusion.inputs(fusion.FusionShape(5, 64), "cpu", torch.float32, 1)
    out = gemm(made["features"].flatten(0, 1), made["w"], 3, GemmConfig(16, 64, 64, split, 4, 1))
    assert relative_error(made, (out,), fusion.reference(**made)) < 1e-5


def test_k_must_fill_blocks() -> None:
    made = inputs(GemmShape(1, 64, 96), "meta", torch.float32, 0)
    with pytest.raises(ValueError, match=r"K per segment is 96; it must be a multiple of 128"):
        gemm(**made)


@pytest.mark.parametrize("model", PROFILED, ids=lambda m: m.name)
def test_every_profiled_shape_has_a_valid_configuration(model) -> None:
    for s in shapes(model):
        cfg = config(s.m, s.n, s.k, 132)
        assert cfg.bm in TILES
        assert s.k % cfg.bk == 0
        assert 1 <= cfg.split <= s.k // cfg.bk, (s, cfg)


def test_narrow_products_are_split_to_fill_the_chip() -> None:
    narrow, wide = config(16, 4096, 4096, 132), config(16, 2 * LLAMA3_8B.intermediate, 4096, 132)
    assert 4096 / narrow.bn * narrow.split >= 132
    assert wide.split == 1
