"""A kernel profile with known costs, written in the profiler's own format (its `Store`, no GPU, no torch)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.profiling.rows import OK, Row, Store

LAYERS, HIDDEN, HEADS, KV_HEADS, DIM, INNER, VOCAB, DRAFT_VOCAB = 32, 4096, 32, 8, 128, 14336, 128256, 32000
BYTES_S, FLOPS_S = 4.2e12, 750e12
GAP_US, ROW_US, PASS_US = 90.0, 0.2, 25.0
SKEW = 0.3
"""Share of the way from a level batch at the mean to one at mean plus deviation."""
NOISE = 0.01
ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024)
BATCHES, QUERIES, CONTEXTS = (1, 8, 32, 64, 128, 256), (1, 2, 4, 5, 8, 16), (256, 1024, 4096, 16384)


def gemm_us(m, n, k):
    """Reads its weights at 87% of the bandwidth; rows come in tiles of 16."""
    tiles = 16 * np.ceil(m / 16)
    return 2.5 + np.maximum(2 * n * k / (0.87 * BYTES_S), 2 * tiles * n * k / (0.85 * FLOPS_S)) * 1e6


def attention_us(batch, query, context):
    read = 4 * batch * context * KV_HEADS * DIM / (0.9 * BYTES_S)
    work = 4 * batch * query * context * HEADS * DIM / FLOPS_S
    return 6.0 + 0.03 * batch + (read + 0.5 * work) * 1e6


def small_us(rows, width):
    return 2.2 + 2 * rows * width / 6e12 * 1e6


def layer_us(rows, draft=False):
    matrices = [(6144, HIDDEN * (1 + draft)), (HIDDEN, HIDDEN), (2 * INNER, HIDDEN), (HIDDEN, INNER)]
    total = sum(gemm_us(rows, n, k) for n, k in matrices)
    small = (2 + draft) * small_us(rows, 4 * HIDDEN) + small_us(rows, 3 * INNER)
    return total + small + small_us(rows, (2 * HEADS + 4 * KV_HEADS) * DIM)


def step_us(batch, query, context):
    """A verify step with `GAP_US` and `ROW_US` that no kernel accounts for; K = 0 rejects nothing."""
    rows = batch * query
    once = small_us(rows, 4 * HIDDEN) + gemm_us(rows, VOCAB, HIDDEN) + (query > 1) * 2.0
    layers = LAYERS * (layer_us(rows) + attention_us(batch, query, context))
    return layers + once + GAP_US + ROW_US * rows


def draft_us(batch, query, context):
    rows = batch * query
    fused = gemm_us(rows, HIDDEN, 3 * HIDDEN) if query > 1 else 0.0
    own = layer_us(rows, True) + attention_us(batch, query, context) + fused
    return own + small_us(batch, 4 * HIDDEN) + gemm_us(batch, DRAFT_VOCAB, HIDDEN) + PASS_US


def deviation(mean, skew, query):
    """(mean plus standard deviation, longest) of one long context in `skew` among short ones."""
    short = max(query, mean // 8)
    long = mean * skew - short * (skew - 1)
    spread = ((long - mean) ** 2 + (skew - 1) * (short - mean) ** 2) / skew
    return mean + spread**0.5, long


@dataclass
class Writer:
    store: Store
    noise: float
    rng: np.random.Generator

    def add(self, op: str, us: float, impl: str = "triton", status: str = OK, **shape: object) -> None:
        us = float(us * np.exp(self.noise * self.rng.normal()))
        timing = {"median_us": us, "q10_us": 0.99 * us, "q90_us": 1.02 * us, "samples": 20}
        self.store.add(
            Row(op, impl, "llama3-8b", shape, "bf16", status, 1e-3, **(timing if status == OK else {}))
        )


def write_profile(path: Path, noise: float = NOISE, whole: bool = True, device: str = "NVIDIA H200") -> Path:
    """A complete profile of Llama-3-8B with its draft head; `whole=False` leaves the composed rows out."""
    store = Store(path, flush_every=10**6)
    extra = {"device": device, "copy_gb_per_s": 4.0e3, "read_gb_per_s": BYTES_S / 1e9}
    extra |= {"tflops": FLOPS_S / 1e12, "multiprocessors": 132, "l2_bytes": 60 << 20}
    store.add(
        Row("device", "-", "-", {"device": device}, "-", OK, device=device, commit="c" * 40, extra=extra)
    )
    w = Writer(store, noise, np.random.default_rng(5))
    _kernels(w)
    _attention(w)
    if whole:
        _whole(w)
    w.add("gemm", 1.0, impl="cublas", m=1, n=6144, k=4096)
    w.add("gemm", 1.0, status="too_fast", m=7, n=6144, k=4096)
    w.add("kl_forward", 900.0, tokens=64, vocab=VOCAB, hidden=HIDDEN, direction="forward")
    store.flush()
    return path


def _kernels(w: Writer) -> None:
    matrices = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (6144, 8192)]
    for m, (n, k) in itertools.product(ROWS, matrices):
        w.add("gemm", gemm_us(m, n, k), m=m, n=n, k=k)
    for rows in ROWS:
        head = {"rows": rows, "hidden": HIDDEN, "top": 1}
        w.add("lm_head", gemm_us(rows, VOCAB, HIDDEN), **head, vocab=VOCAB, mapped=False)
        w.add("lm_head", gemm_us(rows, DRAFT_VOCAB, HIDDEN), **head, vocab=DRAFT_VOCAB, mapped=True)
        w.add("fusion", gemm_us(rows, HIDDEN, 3 * HIDDEN), tokens=rows, hidden=HIDDEN)
        w.add("rmsnorm", small_us(rows, 4 * HIDDEN), rows=rows, hidden=HIDDEN)
        heads = {"q_heads": HEADS, "kv_heads": KV_HEADS, "head_dim": DIM}
        wide = (2 * HEADS + 4 * KV_HEADS) * DIM
        w.add("rotary", small_us(rows, wide), tokens=rows, **heads, qk_norm=False)
        w.add("swiglu", small_us(rows, 3 * INNER), rows=rows, intermediate=INNER)
    for batch, k in itertools.product((1, 64, 256), (1, 4, 7)):
        w.add("rejection", 2.0, batch=batch, k=k, vocab=VOCAB, mode="greedy")


def _attention(w: Writer) -> None:
    heads = {"q_heads": HEADS, "kv_heads": KV_HEADS, "head_dim": DIM}
    for batch, query, context in itertools.product(BATCHES, QUERIES, CONTEXTS):
        if batch * context <= 1 << 21:
            shape = {"batch": batch, "query_tokens": query, "context": context, "skew": 1, "tree": False}
            w.add("attention", attention_us(batch, query, context), **shape, **heads)
    for batch, query, context in itertools.product((16, 64, 128), (1, 5), (1024, 4096)):
        mean, long = attention_us(batch, query, context), deviation(context, 8, query)[0]
        us = mean + SKEW * (attention_us(batch, query, long) - mean)
        shape = {"batch": batch, "query_tokens": query, "context": context, "skew": 8, "tree": False}
        w.add("attention", us, **shape, **heads)
    tree = {"batch": 16, "query_tokens": 8, "context": 4096, "skew": 1, "tree": True}
    w.add("attention", 1.0, **tree, **heads)


def _whole(w: Writer) -> None:
    for batch, query, context in itertools.product((1, 8, 32, 64, 128), (1, 2, 4, 5, 8), (1024, 4096)):
        shape = {"model": "llama3-8b", "batch": batch, "query_tokens": query, "context": context}
        w.add("verify_step", step_us(batch, query, context), **shape, drafter=True)
        one = layer_us(batch * query) + attention_us(batch, query, context)
        w.add("layer", one, **shape, drafter=True)
        w.add("draft_pass", draft_us(batch, query, context), **shape, drafter=True)
