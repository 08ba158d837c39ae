"""Paged attention against its fp64 reference. Spare pages and unused slots hold NaN throughout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention import (
    OP,
    PARTS,
    AttentionConfig,
    AttentionShape,
    attention,
    config,
    cost,
    inputs,
    reference,
    spot_check,
    tree_masks,
)
from kernels.common import relative_error

SPLIT = AttentionConfig(chunk=64, bn=64, warps=4, stages=1)
WHOLE = AttentionConfig(chunk=1024, bn=64, warps=4, stages=1)


def error(
    shape: AttentionShape, cfg: AttentionConfig, dtype: torch.dtype = torch.float32, seed: int = 0
) -> float:
    made = inputs(shape, "cpu", dtype, seed)
    return relative_error(made, (attention(**made, cfg=cfg),), reference(**made))


@pytest.mark.usefixtures("interpreter")
@settings(max_examples=6, deadline=None)
@given(
    query_tokens=st.integers(1, 6),
    context=st.integers(7, 150),
    heads=st.sampled_from([(2, 1), (4, 1), (4, 2)]),
    cfg=st.sampled_from([SPLIT, WHOLE]),
    tree=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_matches_reference(query_tokens, context, heads, cfg, tree, seed) -> None:
    shape = AttentionShape(2, query_tokens, context, *heads, 16, tree=tree)
    assert error(shape, cfg, seed=seed) < 1e-5


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("cfg", [SPLIT, WHOLE])
def test_skewed_lengths(cfg: AttentionConfig) -> None:
    shape = AttentionShape(3, 2, 60, 4, 2, 16, skew=3)
    assert sum(shape.lengths()) == 3 * 60
    assert max(shape.lengths()) > 2 * 60
    assert error(shape, cfg) < 1e-5


@pytest.mark.usefixtures("interpreter")
def test_half_precision() -> None:
    assert error(AttentionShape(1, 4, 70, 4, 1, 16), SPLIT, torch.float16) < 2e-3


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("cfg", [SPLIT, WHOLE])
def test_padding_sequence_of_length_zero_gives_zeros(cfg: AttentionConfig) -> None:
    made = inputs(AttentionShape(2, 1, 80, 2, 1, 16), "cpu", torch.float32, 0)
    made["lengths"][1] = 0
    out = attention(**made, cfg=cfg)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert out[0].isfinite().all()


@pytest.mark.usefixtures("interpreter")
def test_verify_equals_one_token_at_a_time() -> None:
    """Query token i of a verify step sees what a decode step at that length would."""
    made = inputs(AttentionShape(1, 3, 50, 2, 1, 16), "cpu", torch.float32, 3)
    together = attention(**made, cfg=WHOLE)
    for i in range(3):
        single = dict(made, q=made["q"][i : i + 1].contiguous(), lengths=made["lengths"] - 2 + i)
        assert torch.allclose(attention(**single, cfg=WHOLE), together[i : i + 1], atol=1e-6)


@pytest.mark.usefixtures("interpreter")
def test_spot_check_sees_an_error_in_the_last_sequence() -> None:
    import dataclasses

    made = inputs(AttentionShape(3, 1, 40, 2, 1, 16), "cpu", torch.float32, 0)

    def broken(**kwargs):
        out = attention(**kwargs)
        out[-1] += 1
        return (out,)

    assert spot_check(OP, made) < 1e-5
    assert spot_check(dataclasses.replace(OP, run=broken), made) > 0.1


def test_too_many_rows_is_refused() -> None:
    made = inputs(AttentionShape(1, 16, 64, 16, 1, 16), "meta", torch.float32, 0)
    with pytest.raises(ValueError, match="exceed a tile of 128 rows"):
        attention(**made)


def test_tree_mask_is_ancestors_and_self() -> None:
    bits = tree_masks(1, 5)[0].tolist()
    assert [[j for j in range(5) if b >> j & 1] for b in bits] == [[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4]]


def test_kv_bytes_do_not_grow_with_query_tokens() -> None:
    one, five = (cost(AttentionShape(64, q, 4096, 32, 8)) for q in (1, 5))
    assert one.cold_bytes == five.cold_bytes == 64 * 4096 * 8 * 128 * 2 * 2
    assert five.flops == 5 * one.flops


@given(
    batch=st.integers(1, 256),
    context=st.integers(16, 32768),
    kv_heads=st.sampled_from([1, 2, 8]),
    rows=st.sampled_from([4, 20, 40, 128]),
)
def test_chunks_cover_the_context(batch: int, context: int, kv_heads: int, rows: int) -> None:
    cfg = config(rows, kv_heads, batch * context, context, batch, 132)
    assert cfg.chunk % cfg.bn == 0
    assert 1 <= -(-context // cfg.chunk) <= max(PARTS)


def test_small_batches_are_split_and_large_ones_are_not() -> None:
    assert config(16, 8, 4096, 4096, 1, 132).chunk < 4096 / 8
    assert config(16, 8, 256 * 4096, 4096, 256, 132).chunk >= 4096
