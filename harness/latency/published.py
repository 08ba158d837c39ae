"""The published step cost of Llama-3.1-8B on one H100, as a named model.

    step = 5.886 + 0.0210 * tokens + 3.93e-5 * KV tokens + 1.207 ms; an EAGLE draft adds 2.135 ms

The draft term does not grow with K. The published speedups decide that: solved for the draft cost, the four
K = 7 rows give 2.135 ms as the K = 3 rows do (`sanity.implied_draft_ms`), so the fit charges a verify token
0.021 ms and drafting once. A drafter that is loaded but idle (K = 0) has no published figure; one third of
the draft term is assumed, a single pass of three that keeps the drafter's KV in step.
"""

from __future__ import annotations

import numpy as np

from harness.latency.compiled import CompiledLatency, Grid, nothing
from harness.latency.model import LatencyModel
from harness.latency.specs import gpu, kv_capacity, model

NAME = "h100-llama3-8b"
BASE_MS = 5.886
TOKEN_MS = 0.0210
KV_TOKEN_MS = 3.93e-5
GAP_MS = 1.207
DRAFT_MS = 2.135
IDLE_DRAFT_MS = DRAFT_MS / 3
MAX_TOKENS = 16384
MAX_K = 7


def build(gap: float | None = None) -> LatencyModel:
    """The published fit; `gap` (seconds) replaces its 1.207 ms."""
    return LatencyModel(
        name=NAME,
        source="published fit",
        note="Published linear fit of step time, Llama-3.1-8B on one H100 with EAGLE; not measured by us.",
        provenance={
            "base, tokens, KV tokens, gap": "published: linear fit of whole steps",
            "draft": "published: 2.135 ms near K = 3; constant in K, as the published speedups imply",
            "idle drafter": "assumed: a third of the draft term",
            "graphs": "none: the fit is linear in the tokens of the step",
            "kv_capacity": "memory * 0.9 - reserve - weights of an 80 GB H100",
        },
        compiled=_compile(gap),
        max_k=MAX_K,
        max_tokens=MAX_TOKENS,
        kv_capacity_tokens=kv_capacity(gpu("h100"), model("llama3-8b")),
        has_drafter=True,
    )


def _compile(gap: float | None) -> CompiledLatency:
    sizes = np.arange(MAX_TOKENS + 1, dtype=np.float64)
    return CompiledLatency(
        token_s=np.where(sizes > 0, (BASE_MS + TOKEN_MS * sizes) * 1e-3, 0.0),
        expert_s=nothing(),
        head_s=nothing(),
        draft_first_s=np.full(2, DRAFT_MS * 1e-3),
        draft_next_s=nothing(),
        draft_head_s=nothing(),
        draft_idle_s=np.full(2, IDLE_DRAFT_MS * 1e-3),
        draft_kv_s=0.0,
        **Grid()._asdict(),
        attn_fixed_s=0.0,
        kv_s=KV_TOKEN_MS * 1e-3,
        query_key_s=0.0,
        prefix_s=KV_TOKEN_MS * 1e-3,
        pair_s=0.0,
        skew_pure=np.zeros(1),
        skew_mixed=np.zeros(1),
        gap_s=GAP_MS * 1e-3 if gap is None else gap,
    )
