"""The arrays of a fitted model: dense tables by size, and the attention grid."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.latency import grid as grids
from harness.latency.compose import Composition
from harness.latency.specs import assumed

MAX_TOKENS = 16384
MAX_ROWS = 8192
STEP = 1.45
"""Neighbours on an axis of the grid lie at most this factor apart: between them it is linear."""
NEAR = 1.15
"""Measured sizes closer than this are thinned out."""
PREFIXES = (0.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)
"""Prefixes of the grid where none were measured."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Grid [chunk, prefix, query tokens, sequences, mean context] in seconds, its axes, and its ends."""

    grid: np.ndarray
    chunk: np.ndarray
    prefix: np.ndarray
    query: np.ndarray
    seqs: np.ndarray
    context: np.ndarray
    kv_s: float
    """Per context token beyond the end."""
    pair_s: float
    """Per query-key pair of prompts beyond the end."""


def table(seconds: np.ndarray) -> np.ndarray:
    """A table by size: 0 at 0, monotone."""
    return np.concatenate([[0.0], grids.isotonic(np.maximum(seconds[1:], 1e-12))])


def spaced(axis: np.ndarray) -> np.ndarray:
    """The axis with whole numbers put where neighbours lie more than `STEP` apart, and thinned where they lie
    closer than `NEAR`: the grid has the product of its axes' sizes."""
    kept = [axis[0]]
    for value in axis[1:]:
        if value >= kept[-1] * NEAR or value == axis[-1]:
            kept.append(value)
    found = kept[:1]
    for low, high in pairwise(kept):
        parts = int(np.ceil(np.log(high / low) / np.log(STEP))) if low > 0 else 1
        found += [round(low * (high / low) ** (i / parts)) for i in range(1, parts)] + [high]
    return np.unique(np.array(found, dtype=np.float64))


def attention_grid(parts: Composition, floors: Composition, factor: float) -> Attention:
    """Decoding attention plus prompts, each monotone; `factor` multiplies measured times (`gap`)."""
    query = parts.measured_attention("query_tokens")
    query = np.arange(query[0], query[-1] + 1)
    seqs, context = (spaced(parts.measured_attention(name)) for name in ("batch", "context"))
    decode = _decode(parts, floors, factor, query, seqs, context)
    seqs = np.concatenate([[0.0], seqs])
    decode = np.concatenate([np.zeros_like(decode[:, :1]), decode], axis=1)
    rank, bytes_s = parts.rank, parts.kernels.rows.bytes_s
    kv_s = max(_end_slope(context, decode[0, -1]) / seqs[-1], rank.shape.kv_bytes_token / rank.tp / bytes_s)
    chunk, prefix, prompts = _prompts(parts, floors, factor)
    grid = prompts[:, :, None, None, None] + decode[None, None]
    return Attention(
        grid=np.ascontiguousarray(grid),
        chunk=chunk,
        prefix=prefix,
        query=query,
        seqs=seqs,
        context=context,
        kv_s=kv_s,
        pair_s=_pair_s(parts, chunk, prefix, prompts),
    )


def _decode(
    parts: Composition,
    floors: Composition,
    factor: float,
    query: np.ndarray,
    seqs: np.ndarray,
    context: np.ndarray,
) -> np.ndarray:
    """[query tokens, sequences, context in KV]; the query tokens add themselves to the context."""
    q, b, c = (m.ravel() for m in np.meshgrid(query, seqs, context, indexing="ij"))
    seconds = np.maximum(factor * parts.attention_s(q, b, c + q - 1), floors.attention_s(q, b, c + q - 1))
    return grids.isotonic(seconds.reshape(len(query), len(seqs), len(context)))


def _prompts(
    parts: Composition, floors: Composition, factor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chunk and prefix axes and seconds [chunk, prefix]; without rows one entry of 0 (all is `pair_s`)."""
    if not parts.has_prompts:
        return np.zeros(1), np.zeros(1), np.zeros((1, 1))
    chunk = spaced(parts.measured_prompts("chunk"))
    prefix = parts.measured_prompts("prefix")
    prefix = np.array(PREFIXES) if len(prefix) < 2 else np.concatenate([prefix[:1], spaced(prefix[1:])])
    c, p = (m.ravel() for m in np.meshgrid(chunk, prefix, indexing="ij"))
    seconds = np.maximum(factor * parts.prompt_s(c, p), floors.prompt_s(c, p))
    seconds = grids.isotonic(seconds.reshape(len(chunk), len(prefix)))
    nothing = np.zeros((1, len(prefix)))
    return np.concatenate([[0.0], chunk]), prefix, np.concatenate([nothing, seconds])


def _pair_s(parts: Composition, chunk: np.ndarray, prefix: np.ndarray, prompts: np.ndarray) -> float:
    """The slope at the end of the grid; without prompt rows the assumed share of the matrix rate."""
    rank, rows = parts.rank, parts.kernels.rows
    work = 4 * rank.shape.layers * rank.shape.heads * rank.shape.head_dim / rank.tp
    if not parts.has_prompts:
        peak = rows.gpu.flops_s if rows.gpu else rows.flops_s
        return float(work / (peak * assumed().attention_compute_share))
    return float(max(_end_slope(prefix, prompts[-1]) / chunk[-1], work / rows.flops_s))


def _end_slope(axis: np.ndarray, seconds: np.ndarray) -> float:
    """Seconds per unit over the last half of the axis: neighbours may lie too close for their noise."""
    half = min(int(np.searchsorted(axis, axis[-1] / 2)), len(axis) - 2)
    return float((seconds[-1] - seconds[half]) / (axis[-1] - axis[half]))
