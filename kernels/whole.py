"""Whole layers, verify steps and draft passes, composed of the kernels: what the parts leave out is the gap.

A model is far larger than L2, so a few copies of one layer's weights, used in turn, stand for all
its layers: cold at every use, at a fraction of the memory. No all-reduce: a tensor-parallel shard
is measured as one rank's own work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels import fusion, lm_head, rejection, rmsnorm, rotary, swiglu
from kernels.attention import PAGE, AttentionShape, attention
from kernels.attention import cost as attention_cost
from kernels.attention import reference as attention_reference
from kernels.common import Cost, Inputs, Op, cdiv, randn, relative_error
from kernels.gemm import GemmShape, gemm, projections
from kernels.gemm import cost as gemm_cost
from kernels.models import PROFILED, Model

COPIES = 2
"""Sets of weights and KV that the layers take in turn."""
AUX_LAYERS = 3
"""Layers whose hidden states an EAGLE-3 drafter reads (they are copied out)."""
CHECK_BATCH, CHECK_CONTEXT = 4, 256


@dataclass(frozen=True, slots=True)
class WholeShape:
    model: str
    batch: int
    query_tokens: int
    context: int
    """KV tokens per sequence, query tokens included."""
    drafter: bool = True
    """A drafter is loaded: the verify step writes hidden states out for it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; `input_norm2` only in an EAGLE-3 head (it normalises the fused features)."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    post_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    input_norm2: torch.Tensor | None = None
    qk_norm: tuple[torch.Tensor, torch.Tensor] | tuple[None, None] = (None, None)

    def double(self) -> Layer:
        names = ("input_norm", "qkv", "out", "post_norm", "gate_up", "down")
        wide = {name: getattr(self, name).double() for name in names}
        return replace(self, **wide)


@dataclass(frozen=True, slots=True)
class Batch:
    """What the scheduler hands a step."""

    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    block_table: torch.Tensor
    lengths: torch.Tensor
    lengths_sum: int
    lengths_max: int
    last: torch.Tensor
    """Row of each sequence's last token."""
    drafts: torch.Tensor


@dataclass(frozen=True, slots=True)
class State:
    """Everything a step touches."""

    model: Model
    shape: WholeShape
    layers: int
    weights: list[Layer]
    caches: list[tuple[torch.Tensor, ...]]
    batch: Batch
    cos_sin: torch.Tensor
    embedding: torch.Tensor
    norm: torch.Tensor
    head: torch.Tensor
    features: torch.Tensor
    """[3, rows, hidden]: written by the verify step, read by the first draft pass."""
    fc: torch.Tensor
    d2t: torch.Tensor


def make_layer(model: Model, draft: bool, device: str, dtype: torch.dtype, seed: int) -> Layer:
    """Random weights with unit gain."""
    h, heads = model.hidden, model.q_heads * model.head_dim

    def matrix(n: int, k: int, which: int) -> torch.Tensor:
        return randn((n, k), device, dtype, seed + which, k**-0.5)

    def gain(n: int, which: int) -> torch.Tensor:
        return randn((n,), device, dtype, seed + which, 0.1) + 1

    return Layer(
        gain(h, 0),
        matrix(model.qkv, 2 * h if draft else h, 1),
        matrix(h, heads, 2),
        gain(h, 3),
        matrix(2 * model.intermediate, h, 4),
        matrix(h, model.intermediate, 5),
        gain(h, 6) if draft else None,
        (gain(model.head_dim, 7), gain(model.head_dim, 8)) if model.qk_norm else (None, None),
    )


def make_batch(batch: int, query_tokens: int, context: int, vocab: int, device: str, seed: int) -> Batch:
    """Sequences of equal length on pages in random order."""
    generator = torch.Generator().manual_seed(seed)
    per_seq, rows = cdiv(context, PAGE), batch * query_tokens
    table = torch.randperm(batch * per_seq, generator=generator, dtype=torch.int32).view(batch, per_seq)
    position = torch.arange(context - query_tokens, context)
    slots = table[:, position // PAGE].long() * PAGE + position % PAGE
    return Batch(
        ids=torch.randint(0, vocab, (rows,), generator=generator).to(device),
        positions=position.to(torch.int32).repeat(batch).to(device),
        slots=slots.flatten().to(device),
        block_table=table.to(device),
        lengths=torch.full((batch,), context, dtype=torch.int32, device=device),
        lengths_sum=batch * context,
        lengths_max=context,
        last=torch.arange(query_tokens - 1, rows, query_tokens, device=device),
        drafts=torch.randint(0, vocab, (batch, query_tokens - 1), generator=generator, dtype=torch.int32).to(
            device
        ),
    )


def make_state(
    model: Model, shape: WholeShape, draft: bool, layers: int, device: str, dtype: torch.dtype, seed: int
) -> State:
    h, rows = model.hidden, shape.batch * shape.query_tokens
    vocab = model.draft_vocab if draft else model.vocab
    cache = (shape.batch * cdiv(shape.context, PAGE), PAGE, model.kv_heads, model.head_dim)
    kept = torch.arange(vocab, device=device)
    return State(
        model, shape, layers,
        [make_layer(model, draft, device, dtype, seed + 100 * i) for i in range(COPIES)],
        [tuple(randn(cache, device, dtype, seed + 10 * i + j) for j in (8, 9)) for i in range(COPIES)],
        make_batch(shape.batch, shape.query_tokens, shape.context, model.draft_vocab, device, seed),
        rotary.angles(max(shape.context, 1), model.head_dim, device),
        randn((model.vocab, h), device, dtype, seed + 1),
        randn((h,), device, dtype, seed + 2, 0.1) + 1,
        randn((vocab, h), device, dtype, seed + 3, h**-0.5),
        randn((AUX_LAYERS, rows, h), device, dtype, seed + 4),
        randn((h, AUX_LAYERS * h), device, dtype, seed + 5, (AUX_LAYERS * h) ** -0.5) if draft else kept,
        (kept * (model.vocab // vocab) - kept) if draft else kept,
    )  # fmt: skip


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


# --- the same in fp64 ---------------------------------------------------------------------------


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return rmsnorm.reference(x, torch.zeros_like(x), weight)[0]


def _reference_block(
    normed: torch.Tensor, residual: torch.Tensor, w: Layer, state: State, i: int
) -> tuple[torch.Tensor, torch.Tensor]:
    b = state.batch
    k_cache, v_cache = (c.double() for c in state.caches[i % COPIES])
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
    from kernels.common import lookup

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
