"""The passes of whole.py in fp64 and plain torch."""

from __future__ import annotations

import torch

from kernels import fusion, rmsnorm, rotary, swiglu
from kernels.attention import reference as attention_reference
from kernels.whole_state import COPIES, Layer, State


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return rmsnorm.reference(x, torch.zeros_like(x), weight)[0]


def _reference_block(
    normed: torch.Tensor, residual: torch.Tensor, w: Layer, state: State, i: int
) -> tuple[torch.Tensor, torch.Tensor]:
    b = state.batch
    used = int(b.block_table.max()) + 1
    k_cache, v_cache = (c[:used].double() for c in state.caches[i % COPIES])
    q, k, v = rotary.reference(
        normed @ w.qkv.T, b.positions, b.slots, state.cos_sin, k_cache, v_cache, *w.qk_norm
    )
    k_cache.flatten(0, 1)[b.slots], v_cache.flatten(0, 1)[b.slots] = k, v
    (mixed,) = attention_reference(
        q, k_cache, v_cache, b.block_table, b.lengths, b.lengths_sum, b.lengths_max
    )
    normed, residual = rmsnorm.reference(mixed.flatten(1) @ w.out.T, residual, w.post_norm)
    (active,) = swiglu.reference(normed @ w.gate_up.T)
    return active @ w.down.T, residual


def reference_verify(state: State, turn: int) -> tuple[torch.Tensor]:
    x = state.embedding[state.batch.ids].double()
    residual = torch.zeros_like(x)
    for i in range(state.layers):
        w = state.weights[(turn + i) % COPIES].double()
        normed, residual = rmsnorm.reference(x, residual, w.input_norm)
        x, residual = _reference_block(normed, residual, w, state, turn + i)
    return (rmsnorm.reference(x, residual, state.norm)[0],)


def reference_layer(state: State, turn: int) -> tuple[torch.Tensor, torch.Tensor]:
    w = state.weights[turn % COPIES].double()
    x, before = (f.double() for f in state.features[:2])
    normed, residual = rmsnorm.reference(x, before, w.input_norm)
    return _reference_block(normed, residual, w, state, turn)


def reference_draft(state: State, turn: int) -> tuple[torch.Tensor]:
    w, rows = state.weights[turn % COPIES].double(), len(state.batch.ids)
    g = state.features[0][:rows].double()
    if state.shape.query_tokens > 1:
        (g,) = fusion.reference(state.features[:, :rows], state.fc)
    assert w.input_norm2 is not None
    embedded = state.embedding[state.batch.ids].double()
    both = torch.cat((_norm(embedded, w.input_norm), _norm(g, w.input_norm2)), -1)
    x, residual = _reference_block(both, g, w, state, turn)
    last = state.batch.last
    return (rmsnorm.reference(x[last], residual[last], state.norm)[0],)
