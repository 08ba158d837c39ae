"""Whole layers, verify steps and draft passes, composed of the kernels: what the parts leave out is the gap.

A model is far larger than L2, so a few copies of one layer's weights, used in turn, stand for all
its layers: cold at every use, at a fraction of the memory. No all-reduce: a tensor-parallel shard
is measured as one rank's own work.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from kernels import fusion, lm_head, rejection, rmsnorm, rotary, swiglu
from kernels.attention import AttentionShape, attention
from kernels.attention import cost as attention_cost
from kernels.common import Cost, Inputs, Op, lookup, relative_error
from kernels.gemm import GemmShape, gemm, projections
from kernels.gemm import cost as gemm_cost
from kernels.models import PROFILED, Model
from kernels.whole_reference import reference_draft, reference_layer, reference_verify
from kernels.whole_state import AUX_LAYERS, COPIES, Layer, State, WholeShape, make_batch, make_state

CHECK_BATCH, CHECK_CONTEXT = 4, 256


def _attend(normed: torch.Tensor, w: Layer, state: State, i: int) -> torch.Tensor:
    """From a layer's normalised input to its attention output projection."""
    k_cache, v_cache = state.caches[i % COPIES]
    b = state.batch
    q = rotary.rotary(gemm(normed, w.qkv), b.positions, b.slots, state.cos_sin, k_cache, v_cache, *w.qk_norm)
    mixed = attention(q, k_cache, v_cache, b.block_table, b.lengths, b.lengths_sum, b.lengths_max)
    return gemm(mixed.flatten(1), w.out)


def _mlp(attended: torch.Tensor, residual: torch.Tensor, w: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    normed, residual = rmsnorm.rmsnorm(attended, residual, w.post_norm)
    return gemm(swiglu.swiglu(gemm(normed, w.gate_up)), w.down), residual


def run_layers(state: State, turn: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embedding and `state.layers` layers -> (last MLP output, residual)."""
    x = torch.nn.functional.embedding(state.batch.ids, state.embedding)
    residual = x
    every = max(1, state.layers // AUX_LAYERS)
    for i in range(state.layers):
        w = state.weights[(turn + i) % COPIES]
        if i == 0:
            normed = torch.empty_like(x)
            rmsnorm.norm_into(normed, x, w.input_norm)
        else:
            normed, residual = rmsnorm.rmsnorm(x, residual, w.input_norm)
        if state.shape.drafter and i % every == 0 and i // every < AUX_LAYERS:
            state.features[i // every][: len(x)].copy_(residual)
        x, residual = _mlp(_attend(normed, w, state, turn + i), residual, w)
    return x, residual


def run_verify(state: State, turn: int) -> tuple[torch.Tensor, ...]:
    """-> final hidden states, argmax ids, and with drafts the accepted tokens and counts."""
    x, residual = run_layers(state, turn)
    hidden, _ = rmsnorm.rmsnorm(x, residual, state.norm)
    ids, _, _ = lm_head.lm_head(hidden, state.head)
    if state.batch.drafts.shape[1] == 0:
        return hidden, ids
    batch = len(state.batch.lengths)
    return (hidden, ids, *rejection.greedy(ids.view(batch, -1), state.batch.drafts))


def run_layer(state: State, turn: int) -> tuple[torch.Tensor, ...]:
    """A middle layer: normalise with residual, attend, MLP -> the new residual stream."""
    w = state.weights[turn % COPIES]
    x = state.features[0]
    normed, residual = rmsnorm.rmsnorm(x, state.features[1], w.input_norm)
    out, residual = _mlp(_attend(normed, w, state, turn), residual, w)
    return out, residual


def run_draft(state: State, turn: int) -> tuple[torch.Tensor, ...]:
    """One pass of an EAGLE-3 head -> normalised hidden states of the last tokens, draft ids.

    With several query tokens it is the first pass after a verify step: it fuses the target's
    features of all of them. With one it continues from its own hidden state.
    """
    w, rows = state.weights[turn % COPIES], len(state.batch.ids)
    h = state.model.hidden
    first = state.shape.query_tokens > 1
    g = fusion.fuse(state.features[:, :rows].contiguous(), state.fc) if first else state.features[0][:rows]
    assert w.input_norm2 is not None
    both = torch.empty((rows, 2 * h), dtype=g.dtype, device=g.device)
    embedded = torch.nn.functional.embedding(state.batch.ids, state.embedding)
    rmsnorm.norm_into(both[:, :h], embedded, w.input_norm)
    rmsnorm.norm_into(both[:, h:], g, w.input_norm2)
    x, residual = _mlp(_attend(both, w, state, turn), g, w)
    if first:
        x, residual = x[state.batch.last], residual[state.batch.last]
    hidden, _ = rmsnorm.rmsnorm(x, residual, state.norm)
    ids, _, _ = lm_head.lm_head(hidden, state.head, 1, state.d2t)
    return hidden, ids


# --- checking -------------------------------------------------------------------------------------


def check(op: Op, inputs: Inputs) -> float:
    """The error at a small batch and context with the same weights, one layer deep.

    Parts are checked at full size on their own; this checks how they are put together.
    """
    state: State = inputs["state"]
    batch, context = min(CHECK_BATCH, state.shape.batch), min(CHECK_CONTEXT, state.shape.context)
    q = state.shape.query_tokens
    small = replace(
        state,
        layers=1,
        batch=make_batch(batch, q, context, state.model.draft_vocab, str(state.embedding.device), 7),
        features=state.features[:, : batch * q].contiguous(),
    )
    return op.error(inputs, op.run(state=small, turn=0), op.reference(state=small, turn=0))


def error(inputs: Inputs, out: tuple[torch.Tensor, ...], ref: tuple[torch.Tensor, ...]) -> float:
    """Of the hidden states; ids follow from them."""
    return relative_error(inputs, out[: len(ref)], ref)


# --- costs and shapes ---------------------------------------------------------------------------


def _block_cost(model: Model, shape: WholeShape, qkv_width: int) -> Cost:
    rows = shape.batch * shape.query_tokens
    sizes = projections(model)[:4]
    sizes[0] = (model.qkv, qkv_width)
    total = attention_cost(
        AttentionShape(
            shape.batch, shape.query_tokens, shape.context, model.q_heads, model.kv_heads, model.head_dim
        )
    )
    for n, k in sizes:
        total = total + gemm_cost(GemmShape(rows, n, k))
    return total


def verify_cost(shape: WholeShape) -> Cost:
    """All layers and the head; embedding and norms are left out (under 0.1%)."""
    m = find(shape.model)
    head = lm_head.cost(lm_head.HeadShape(shape.batch * shape.query_tokens, m.vocab, m.hidden))
    return _block_cost(m, shape, m.hidden).times(m.layers) + head


def layer_cost(shape: WholeShape) -> Cost:
    m = find(shape.model)
    return _block_cost(m, shape, m.hidden)


def draft_cost(shape: WholeShape) -> Cost:
    """The head's layer, its LM head on one row per sequence, and for several query tokens the fusion."""
    m = find(shape.model)
    total = _block_cost(m, shape, 2 * m.hidden)
    total = total + lm_head.cost(lm_head.HeadShape(shape.batch, m.draft_vocab, m.hidden))
    if shape.query_tokens > 1:
        total = total + fusion.cost(fusion.FusionShape(shape.batch * shape.query_tokens, m.hidden))
    return total


BATCHES = (64, 1, 128, 8, 32, 16, 4, 2, 96)
CONTEXTS = (4096, 1024, 16384, 2048)
QUERIES = (1, 5, 4, 8, 2, 3, 6, 7)
MAX_KV_BYTES = 30e9


def _grid(model: Model, contexts: tuple[int, ...], queries: tuple[int, ...]) -> list[WholeShape]:
    grid = [WholeShape(model.name, b, q, c) for c in contexts for q in queries for b in BATCHES]
    per_token = 4.0 * model.kv_heads * model.head_dim * COPIES
    return [s for s in grid if s.batch * s.context * per_token < MAX_KV_BYTES]


def verify_shapes(model: Model) -> list[WholeShape]:
    """The grid, coarse first; plain decoding also without a drafter."""
    bare = [replace(s, drafter=False) for s in _grid(model, CONTEXTS[:2], (1,))]
    grid = _grid(model, CONTEXTS, QUERIES)
    return [*grid[:36], *bare, *grid[36:]]


def layer_shapes(model: Model) -> list[WholeShape]:
    return _grid(model, CONTEXTS[:3], (1, 5, 8))


def draft_shapes(model: Model) -> list[WholeShape]:
    return _grid(model, CONTEXTS[:2], (1, 5, 8, 4, 2))


MODELS: dict[str, Model] = {m.name: m for m in PROFILED}
"""Tests add a small one."""


def find(name: str) -> Model:
    return lookup("model", name, MODELS)


def _inputs(kind: str) -> Any:
    def make(shape: WholeShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
        model = find(shape.model)
        layers = model.layers if kind == "verify" else 1
        return {"state": make_state(model, shape, kind == "draft", layers, device, dtype, seed), "turn": 0}

    return make


def _op(name: str, kind: str, run: Any, reference: Any, cost: Any, shapes: Any) -> Op:
    return Op(
        name,
        _inputs(kind),
        run,
        reference,
        cost,
        shapes,
        list,
        (),
        error=error,
        tolerance=2e-2,
        check=check,
        composed=True,
    )


OPS = (
    _op("verify_step", "verify", run_verify, reference_verify, verify_cost, verify_shapes),
    _op("layer", "layer", run_layer, reference_layer, layer_cost, layer_shapes),
    _op("draft_pass", "draft", run_draft, reference_draft, draft_cost, draft_shapes),
)
