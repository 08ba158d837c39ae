"""What a whole step works on: one layer's weights, the scheduler's batch, and all of it together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from kernels import rotary
from kernels.attention import PAGE
from kernels.common import cdiv, randn
from kernels.models import Model

COPIES = 2
"""Sets of weights and KV that the layers take in turn."""
AUX_LAYERS = 3
"""Layers whose hidden states an EAGLE-3 drafter reads (they are copied out)."""


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
