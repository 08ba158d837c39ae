"""The cost of one step as one allocation-free compiled function over plain arrays.

Every model, whatever its source, fills the same `CompiledLatency`, so the function is compiled once.
The step is a sum of six parts (`PARTS`): work by token, attention, experts, LM head and sampling by row,
drafting, and the gap. Tables are indexed by whole sizes and already hold CUDA-graph padding.

Attention is either linear (a roofline or a published fit) or a measured grid over equivalent chunk, prefix
tokens, query tokens per sequence, decoding sequences and mean context. The K+1 query tokens of one sequence
read its KV once: where no verify step was measured (one entry of `grid_query`), `query_tokens` enters only
the arithmetic, never the bytes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from harness.latency.shape import (
    DECODE_SEQS,
    DRAFT_PASSES,
    DRAFTER_LOADED,
    EXPERT_TOKENS,
    KV_MAX,
    KV_SQ,
    KV_SUM,
    PREFILL_KV,
    PREFILL_PAIRS,
    PREFILL_TOKENS,
    QUERY_TOKENS,
    SAMPLED_ROWS,
)

PARTS: tuple[str, ...] = ("tokens", "attention", "experts", "head", "draft", "gap")


class CompiledLatency(NamedTuple):
    """float64 arrays (C order) and float64 scalars, all in seconds; the same types for every model."""

    token_s: np.ndarray
    """[tokens]: linear layers, norms, rotary, activation, all-reduce, launch gaps."""
    expert_s: np.ndarray
    """[tokens reaching this rank's experts]: expert layers and their communication; length 2 of 0 if none."""
    head_s: np.ndarray
    """[sampled rows]: LM head, sampling."""
    draft_first_s: np.ndarray
    """[tokens]: the first draft pass, which runs over every token of the step, without its LM head."""
    draft_next_s: np.ndarray
    """[decoding sequences]: each further draft pass, without its LM head."""
    draft_head_s: np.ndarray
    """[decoding sequences]: LM head and sampling of each draft pass."""
    draft_idle_s: np.ndarray
    """[tokens]: what a loaded drafter costs in a step without draft passes."""
    draft_kv_s: float
    """Per draft pass and context token: the drafter's own KV."""
    grid: np.ndarray
    """[chunk, prefix, query tokens, sequences, mean context]: measured attention of all layers; all sizes 1
    if linear."""
    grid_chunk: np.ndarray
    grid_prefix: np.ndarray
    grid_query: np.ndarray
    grid_seqs: np.ndarray
    grid_context: np.ndarray
    attn_fixed_s: float
    """Linear attention: once per step."""
    kv_s: float
    """Per decode context token read (beyond the grid's end, where there is a grid)."""
    query_key_s: float
    """Arithmetic per query-key pair of decoding sequences."""
    prefix_s: float
    """Per KV token read or written for prompts (linear only)."""
    pair_s: float
    """Per query-key pair of prompts (beyond the grid's end, where there is a grid)."""
    skew_pure: np.ndarray
    """[as grid_seqs]: how far a decode-only batch lies from a level one at its mean context (0) towards a
    level one at its longest (1)."""
    skew_mixed: np.ndarray
    """The same when prompts share the step."""
    gap_s: float
    """Per step: what no kernel accounts for."""


@njit(cache=True)
def _at(table: np.ndarray, size: float) -> float:
    """Table value at a size, linear between entries, continued with the last slope beyond the end."""
    last = table.shape[0] - 1
    low = min(int(size), last - 1)
    return table[low] + (size - low) * (table[low + 1] - table[low])


@njit(cache=True)
def _bracket(axis: np.ndarray, value: float) -> tuple[int, float]:
    """Lower index and share of the way to the next, clamped to the axis."""
    low, high = 0, axis.shape[0] - 1
    if high == 0 or value <= axis[0]:
        return 0, 0.0
    if value >= axis[high]:
        return high - 1, 1.0
    while high - low > 1:
        middle = (low + high) // 2
        if axis[middle] <= value:
            low = middle
        else:
            high = middle
    return low, (value - axis[low]) / (axis[low + 1] - axis[low])


@njit(cache=True)
def grid_seconds(
    lat: CompiledLatency, chunk: float, prefix: float, query: float, seqs: float, context: float
) -> float:
    """Multilinear interpolation of the attention grid at a mean context; total context beyond its end
    costs `kv_s` a token."""
    i, a = _bracket(lat.grid_chunk, chunk)
    j, b = _bracket(lat.grid_prefix, prefix)
    n, e = _bracket(lat.grid_query, query)
    k, c = _bracket(lat.grid_seqs, seqs)
    m, d = _bracket(lat.grid_context, context)
    total = 0.0
    for di in range(2):
        wi = a if di else 1.0 - a
        if wi == 0.0:
            continue
        for dj in range(2):
            wj = wi * (b if dj else 1.0 - b)
            if wj == 0.0:
                continue
            for dn in range(2):
                wn = wj * (e if dn else 1.0 - e)
                if wn == 0.0:
                    continue
                for dk in range(2):
                    wk = wn * (c if dk else 1.0 - c)
                    if wk == 0.0:
                        continue
                    row = lat.grid[i + di, j + dj, n + dn, k + dk]
                    total += wk * row[m] * (1.0 - d)
                    if d > 0.0:
                        total += wk * row[m + 1] * d
    inside = min(seqs, lat.grid_seqs[-1]) * min(context, lat.grid_context[-1])
    return total + (seqs * context - inside) * lat.kv_s


@njit(cache=True)
def equivalent_chunk(pairs: float, prefix: float) -> float:
    """Chunk of one prompt with all the step's prefix tokens and the same query-key pairs.

    Solves c * prefix + c * (c + 1) / 2 = pairs; for a single prompt it is that prompt's own chunk.
    """
    half = prefix + 0.5
    return math.sqrt(half * half + 2.0 * pairs) - half


@njit(cache=True)
def _skew(lat: CompiledLatency, seqs: float, mixed: bool) -> float:
    """Alpha of the next larger measured count: skew goes with the waves of a batch, which rise in steps."""
    k, c = _bracket(lat.grid_seqs, seqs)
    table = lat.skew_mixed if mixed else lat.skew_pure
    return table[k + 1] if c > 0.0 else table[k]


@njit(cache=True)
def _measured_attention(lat: CompiledLatency, x: np.ndarray) -> float:
    """Level batch at the mean context, moved towards the long ones; never under the longest one alone.

    Skew was measured on batches of two lengths. A natural batch is taken as the even one of those with its
    mean and standard deviation, whose long half has mean + deviation.
    """
    prefix, seqs, context, query = x[PREFILL_KV], x[DECODE_SEQS], x[KV_SUM], x[QUERY_TOKENS]
    chunk = equivalent_chunk(x[PREFILL_PAIRS], prefix)
    mean = context / seqs if seqs > 0.0 else 0.0
    seconds = grid_seconds(lat, chunk, prefix, query, seqs, mean)
    if seqs > 1.0 and x[KV_MAX] > mean:
        deviation = math.sqrt(max(0.0, x[KV_SQ] / seqs - mean * mean))
        level_at_long = grid_seconds(lat, chunk, prefix, query, seqs, min(mean + deviation, x[KV_MAX]))
        seconds += _skew(lat, seqs, chunk > 0.0) * (level_at_long - seconds)
        seconds = max(seconds, grid_seconds(lat, chunk, prefix, query, 1.0, x[KV_MAX]))
    inside_c = min(chunk, lat.grid_chunk[-1])
    inside_p = min(prefix, lat.grid_prefix[-1])
    inside = inside_c * inside_p + 0.5 * inside_c * (inside_c + 1.0)
    seconds += max(0.0, x[PREFILL_PAIRS] - inside) * lat.pair_s
    return max(seconds, query * context * lat.query_key_s)


@njit(cache=True)
def _linear_attention(lat: CompiledLatency, x: np.ndarray) -> float:
    seqs, context, q = x[DECODE_SEQS], x[KV_SUM], x[QUERY_TOKENS]
    longest = max(context, seqs * x[KV_MAX])
    read = (context + lat.skew_pure[0] * (longest - context)) * lat.kv_s
    decode = max(read, q * context * lat.query_key_s)
    prompt = max((x[PREFILL_KV] + x[PREFILL_TOKENS]) * lat.prefix_s, x[PREFILL_PAIRS] * lat.pair_s)
    return lat.attn_fixed_s + decode + prompt


@njit(cache=True)
def _drafting(lat: CompiledLatency, x: np.ndarray, tokens: float) -> float:
    passes = x[DRAFT_PASSES]
    if passes < 1.0:
        return _at(lat.draft_idle_s, tokens) if x[DRAFTER_LOADED] > 0.0 else 0.0
    each = _at(lat.draft_head_s, x[DECODE_SEQS]) + x[KV_SUM] * lat.draft_kv_s
    further = (passes - 1.0) * _at(lat.draft_next_s, x[DECODE_SEQS])
    return _at(lat.draft_first_s, tokens) + further + passes * each


@njit(cache=True)
def _parts(lat: CompiledLatency, x: np.ndarray) -> tuple[float, float, float, float, float, float]:
    """Seconds of each of `PARTS`; all 0 for a step without tokens."""
    tokens = x[DECODE_SEQS] * x[QUERY_TOKENS] + x[PREFILL_TOKENS]
    if tokens <= 0.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    attention = _measured_attention(lat, x) if lat.grid.size > 1 else _linear_attention(lat, x)
    experts = _at(lat.expert_s, x[EXPERT_TOKENS] if x[EXPERT_TOKENS] > 0.0 else tokens)
    head = _at(lat.head_s, x[SAMPLED_ROWS])
    return _at(lat.token_s, tokens), attention, experts, head, _drafting(lat, x, tokens), lat.gap_s


@njit(cache=True)
def step_seconds(lat: CompiledLatency, x: np.ndarray) -> float:
    """Seconds of the step with shape vector `x` (float64, order `shape.FIELDS`). Allocates nothing."""
    tokens, attention, experts, head, draft, gap = _parts(lat, x)
    return tokens + attention + experts + head + draft + gap


def step_parts(lat: CompiledLatency, x: np.ndarray) -> np.ndarray:
    """float64[len(PARTS)] seconds of each part for the shape vector `x`."""
    return np.array(_parts(lat, x))


class Grid(NamedTuple):
    """The grid fields of `CompiledLatency`; as it stands, those of a model whose attention is linear."""

    grid: np.ndarray = np.zeros((1, 1, 1, 1, 1))
    grid_chunk: np.ndarray = np.zeros(1)
    grid_prefix: np.ndarray = np.zeros(1)
    grid_query: np.ndarray = np.ones(1)
    grid_seqs: np.ndarray = np.zeros(1)
    grid_context: np.ndarray = np.zeros(1)


def nothing() -> np.ndarray:
    """A table that is 0 at every size."""
    return np.zeros(2)
