"""LM head with fused top-k against fp64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.lm_head import HeadConfig, HeadShape, error, inputs, lm_head, reference

SMALL = HeadConfig(16, 64, 64, 4, 1)


@pytest.mark.usefixtures("interpreter")
@settings(max_examples=6, deadline=None)
@given(
    rows=st.integers(1, 20), vocab=st.integers(9, 200), top=st.sampled_from([1, 3, 8]), mapped=st.booleans()
)
def test_matches_reference(rows: int, vocab: int, top: int, mapped: bool) -> None:
    made = inputs(HeadShape(rows, vocab, 64, top, mapped), "cpu", torch.float32, vocab)
    out, ref = lm_head(**made, cfg=SMALL), reference(**made)
    assert error(made, out, ref) < 1e-5
    assert torch.equal(out[0].long(), ref[0])


@pytest.mark.usefixtures("interpreter")
def test_ties_go_to_the_lowest_ids() -> None:
    w = torch.zeros(100, 64)
    w[[30, 70, 90], 0] = 1.0
    ids, values, lse = lm_head(torch.ones(1, 64), w, top=4, cfg=SMALL)
    assert ids.tolist() == [[30, 70, 90, 0]]
    assert values.tolist() == [[1.0, 1.0, 1.0, 0.0]]
    assert lse.item() == pytest.approx(torch.tensor(97.0 + 3 * torch.e).log().item())


@pytest.mark.usefixtures("interpreter")
def test_all_negative_logits_do_not_lose_to_the_padding() -> None:
    ids, values, _ = lm_head(torch.ones(1, 64), torch.full((70, 64), -1.0), cfg=SMALL)
    assert ids.item() == 0
    assert values.item() == -64.0


def test_error_sees_repeated_ids() -> None:
    made = inputs(HeadShape(1, 10, 64, 2), "cpu", torch.float32, 0)
    ids, values, lse, logits = reference(**made)
    assert error(made, (ids, values, lse), (ids, values, lse, logits)) == 0.0
    assert error(made, (ids[:, :1].repeat(1, 2), values, lse), (ids, values, lse, logits)) == float("inf")
