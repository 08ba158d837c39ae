"""Analytic cost of an EAGLE-3 draft head: one decoder layer fed by three fused hidden states.

The first pass of a step runs over every token of the step (verified tokens and prompt chunks), so that the
head's KV keeps up with the target; each further pass runs one token per sequence. K drafts take K passes.
With K = 0 the head still runs its first pass, without its LM head.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.latency.buckets import padded
from harness.latency.specs import BYTES, Assumed, Gpu, ModelShape

MAX_SEQS = 4096


class DraftTables(NamedTuple):
    """The draft fields of `CompiledLatency`, in seconds."""

    draft_first_s: np.ndarray
    draft_next_s: np.ndarray
    draft_head_s: np.ndarray
    draft_idle_s: np.ndarray
    draft_kv_s: float


def eagle3(shape: ModelShape, spec: Gpu, a: Assumed, max_tokens: int, tp: int = 1) -> DraftTables:
    """Roofline of the head beside `shape` on `tp` GPUs, up to `max_tokens` tokens.

    Weights: fc 3H x H; q, k, v from 2H; o; a dense MLP as wide as the target's (of an MoE: 3H, as published
    heads for it have); an LM head over the pruned draft vocabulary.
    """
    hidden = shape.hidden
    mlp = shape.mlp_weights if not shape.experts else 9 * hidden * hidden
    layer = 2 * shape.qkv_weights + shape.o_weights + mlp
    fuse, head = 3 * hidden * hidden, a.draft_vocab * hidden
    rows = padded(np.arange(max_tokens + 1)).astype(np.float64)
    passed = a.draft_pass_us * 1e-6

    def gemm(weights: float, tokens: np.ndarray) -> np.ndarray:
        read = weights / tp * BYTES / (spec.bytes_s * a.bandwidth_share)
        return np.maximum(read, 2 * weights / tp * tokens / (spec.flops_s * a.compute_share))

    first = passed + gemm(layer + fuse, rows)
    sequences = rows[: min(max_tokens, MAX_SEQS) + 1]
    return DraftTables(
        draft_first_s=first,
        draft_next_s=passed + gemm(layer, sequences),
        draft_head_s=gemm(head, sequences),
        draft_idle_s=first,
        draft_kv_s=shape.kv_bytes_token / shape.layers / tp / (spec.bytes_s * a.bandwidth_share),
    )
