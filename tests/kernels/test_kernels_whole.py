"""Layers, verify steps and draft passes as a whole, on a tiny model, against fp64."""

from __future__ import annotations

import pytest
import torch

from kernels import whole
from kernels.models import LLAMA3_8B, Model
from kernels.whole_state import COPIES, WholeShape

TINY = Model("tiny", 3, 128, 4, 2, 128, 192, 64, head_dim=32)
OPS = {op.name: op for op in whole.OPS}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setitem(whole.MODELS, "tiny", TINY)
    monkeypatch.setitem(whole.MODELS, "tiny-qk", replace(TINY, name="tiny-qk", qk_norm=True))


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("name", list(OPS))
@pytest.mark.parametrize(("model", "query_tokens"), [("tiny", 3), ("tiny-qk", 1)])
def test_matches_reference(name: str, model: str, query_tokens: int) -> None:
    op = OPS[name]
    made = op.inputs(WholeShape(model, 2, query_tokens, 35), "cpu", torch.float32, 0)
    assert op.error(made, op.run(**made), op.reference(**made)) < 1e-5
    assert op.check(op, made) < 1e-5


@pytest.mark.usefixtures("interpreter")
def test_verify_step_accepts_the_targets_own_tokens() -> None:
    op = OPS["verify_step"]
    made = op.inputs(WholeShape("tiny", 1, 3, 20), "cpu", torch.float32, 1)
    ids = op.run(**made)[1].view(1, 3)
    made["state"].batch.drafts[:] = ids[:, :2]
    _, again, tokens, accepted = op.run(**made)
    assert accepted.tolist() == [2]
    assert torch.equal(tokens, again.view(1, 3))


@pytest.mark.usefixtures("interpreter")
def test_turns_use_other_weights() -> None:
    op = OPS["layer"]
    made = op.inputs(WholeShape("tiny", 1, 1, 20), "cpu", torch.float32, 0)
    outs = [op.run(**dict(made, turn=turn))[0] for turn in range(COPIES + 1)]
    assert not torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[COPIES])


@pytest.mark.usefixtures("interpreter")
def test_hidden_states_are_written_out_only_for_a_drafter() -> None:
    op = OPS["verify_step"]
    for drafter in (True, False):
        made = op.inputs(WholeShape("tiny", 1, 1, 20, drafter), "cpu", torch.float32, 0)
        before = made["state"].features.clone()
        op.run(**made)
        assert torch.equal(before, made["state"].features) is not drafter


def test_verify_floor_matches_the_published_arithmetic() -> None:
    """triton.md: Llama-3-8B on H200 (4.3 TB/s, 790 TFLOP/s), ms per step."""
    floors = {
        (1024, 1, 1): 3.52,
        (1024, 32, 8): 5.87,
        (1024, 128, 8): 23.48,
        (4096, 128, 4): 25.72,
        (4096, 32, 1): 7.49,
    }
    for (context, batch, q), ms in floors.items():
        cost = whole.verify_cost(WholeShape(LLAMA3_8B.name, batch, q, context))
        memory, matrix = cost.cold_bytes / 4.3e9, cost.flops / 790e9
        assert max(memory, matrix) <= ms * 1.02
        assert memory + matrix >= ms * 0.95


def test_weights_are_8b_parameters() -> None:
    """Without context, the bytes of a step are those of 8.03e9 parameters less the embedding table."""
    cost = whole.verify_cost(WholeShape("llama3-8b", 1, 1, 1))
    assert cost.cold_bytes / 2 == pytest.approx(8.03e9 - 128256 * 4096, rel=2e-3)
