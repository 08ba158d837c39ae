"""Compose whole steps from measured kernel tables (see `tables` for their layout).

A step is `layers` times the per-layer kernels (the norm twice), plus embedding, final norm, LM head and
sampler. Every kernel is first lifted to its roofline floor (see `curves`): small matrices were timed with
their weights in the cache, which a whole model cannot have. Nothing here is fitted to a serving run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import InputError, MissingPart
from harness.latency import grid as grids
from harness.latency import skew, tables
from harness.latency.buckets import padded
from harness.latency.compiled import CompiledLatency, nothing
from harness.latency.curves import by_size, expert_seconds, layer_curve, weights_of
from harness.latency.draft import DraftTables, eagle3
from harness.latency.experts import activated, exchange_s
from harness.latency.model import Coverage, LatencyModel
from harness.latency.roofline import gaps_s
from harness.latency.specs import Gpu, ModelShape, assumed, kv_capacity
from harness.latency.tables import Tables

MAX_TOKENS = 16384
MAX_ROWS = 8192
MAX_K = 16
ONCE = ("embedding", "final_layernorm")
PER_LAYER = {
    "layernorm": 2,
    "qkv_proj": 1,
    "qk_norm": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
"""Times a layer runs each kernel."""
OPTIONAL = {"qk_norm"}
EXPERT_LAYERS = {"gate_up_proj", "act_fn", "down_proj"}
"""What the expert table replaces in a mixture of experts."""


def build(folder: str, ep: int = 1, draft: str | None = None, gap: float | None = None) -> LatencyModel:
    """The model of the tables in `folder`.

    ep: ranks the experts are spread over. draft: None (no draft passes) or "roofline" (analytic EAGLE-3 head
    of the same card). gap: seconds per step beyond kernels and launch gaps, instead of the assumed figure.
    Raises InputError or MissingPart.
    """
    t = tables.read(Path(folder))
    _check(t, ep, draft)
    spec, shape = t.gpu, t.shape
    card = spec.name if spec else "an unlisted card"
    return LatencyModel(
        name=folder,
        source="measured kernels",
        note=(
            f"Composed from measured kernels of {shape.name} on {card}"
            + (f", experts over {ep} ranks" if ep > 1 else "")
            + (", with an analytic (not measured) EAGLE-3 head." if draft else ", without draft passes.")
        ),
        provenance=_provenance(t, ep, draft, gap),
        compiled=_compile(t, ep, draft, gap),
        max_k=MAX_K if draft else 0,
        max_tokens=MAX_TOKENS,
        kv_capacity_tokens=kv_capacity(spec, shape, 1, ep) if spec else None,
        has_drafter=draft is not None,
        part_source={"draft": "analytic roofline" if draft else "none", "gap": "assumed"},
        coverage=_coverage(t, ep),
    )


def _check(t: Tables, ep: int, draft: str | None) -> None:
    if draft not in (None, "roofline"):
        raise InputError(f"draft is {draft!r}; it must be None or 'roofline'")
    if ep < 1 or (ep > 1 and (not t.shape.experts or t.shape.experts % ep)):
        raise InputError(f"ep is {ep}; it must divide the {t.shape.experts} experts of {t.shape.name}")
    if t.gpu is None and (draft or ep > 1):
        raise MissingPart(
            f"{t.path} names no card of specs.toml, so neither a draft head nor an exchange has a price"
        )
    needed = set(PER_LAYER) - OPTIONAL - (EXPERT_LAYERS if t.shape.experts else set())
    missing = sorted((needed | set(ONCE)) - set(t.dense["layer"]))
    missing += sorted({"lm_head", "sampler"} - set(t.per_sequence["layer"]))
    if missing:
        raise MissingPart(f"tables in {t.path} have no rows for layer {missing[0]!r}")


def _provenance(t: Tables, ep: int, draft: str | None, gap: float | None) -> dict[str, str]:
    source = f"measured: {t.path.name} (LLMServingSim layout)"
    return {
        "linear layers, norms, rotary, activation, LM head, sampler, attention": source,
        "skew": source if t.skew is not None else "none: no skew table, so no correction",
        "experts": f"{source}; uniform routing assumed" if t.moe is not None else "none",
        "exchange between ranks": f"analytic: {t.gpu.source}, link assumed" if t.gpu and ep > 1 else "none",
        "floor": f"published: {t.gpu.source}" if t.gpu else "none: unlisted card",
        "launch gaps": "published: 0.5 us per kernel in a graph, 0.9 us outside (NVIDIA)",
        "gap": "assumed: harness/latency/specs.toml" if gap is None else "set by the caller",
        "draft": "analytic EAGLE-3 head" if draft else "none",
        "verify attention": "measured decode attention (KV read once), analytic arithmetic floor",
        "graphs": "padded to vLLM's captured batch sizes up to 512 tokens",
        "kv_capacity": "memory * 0.9 - reserve - weights" if t.gpu else "unknown",
    }


def _compile(t: Tables, ep: int, draft: str | None, gap: float | None) -> CompiledLatency:
    a, shape, spec = assumed(), t.shape, t.gpu
    grid, axes = attention_grid(t.attention, shape, spec)
    top = (grid[0, 0, -1, -1] - grid[0, 0, -1, -2]) / (axes[2][-1] * (axes[3][-1] - axes[3][-2]))
    qk_flops = 4 * shape.layers * shape.heads * shape.head_dim
    return CompiledLatency(
        token_s=_token_table(t),
        expert_s=_expert_table(t, ep),
        head_s=_head_table(t),
        **_draft_tables(t, draft)._asdict(),
        grid=grid[:, :, None],
        grid_chunk=axes[0],
        grid_prefix=axes[1],
        grid_query=np.ones(1),
        grid_seqs=axes[2],
        grid_context=axes[3],
        attn_fixed_s=0.0,
        kv_s=float(top),
        query_key_s=qk_flops / spec.flops_s if spec else 0.0,
        prefix_s=0.0,
        pair_s=_pair_s(grid, axes),
        skew_pure=skew.alphas(t.skew, axes[2], "pure"),
        skew_mixed=skew.alphas(t.skew, axes[2], "mixed"),
        gap_s=a.step_gap_us * 1e-6 if gap is None else gap,
    )


def _draft_tables(t: Tables, draft: str | None) -> DraftTables:
    if draft is None or t.gpu is None:
        return DraftTables(nothing(), nothing(), nothing(), nothing(), 0.0)
    return eagle3(t.shape, t.gpu, assumed(), MAX_TOKENS)


def attention_grid(
    rows: pd.DataFrame, shape: ModelShape, spec: Gpu | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Seconds of attention of all layers [chunk, prefix, sequences, context]: complete, monotone, floored."""
    scattered, axes = grids.scatter(rows)
    if any(len(axis) < 2 for axis in axes) or axes[0][0] != 0 or axes[2][0] != 0:
        raise InputError(
            "attention table must start each of chunk and sequences at 0 and have two of each size"
        )
    grid = grids.complete(scattered, axes)
    if np.isnan(grid).any():
        raise InputError("attention table is too sparse to fill its grid: measure two sizes on every line")
    if spec is not None:
        read = axes[2][:, None] * axes[3] * shape.kv_bytes_token / shape.layers / spec.bytes_s
        grid = np.maximum(grid, read)
    return grids.monotone(grid) * shape.layers, axes


def _pair_s(grid: np.ndarray, axes: list[np.ndarray]) -> float:
    """Seconds per query-key pair of a prompt at the end of the grid."""
    low, high = grid[-1, -2:, 0, 0]
    return float((high - low) / (axes[0][-1] * (axes[1][-1] - axes[1][-2])))


def _token_table(t: Tables) -> np.ndarray:
    sizes = np.arange(MAX_TOKENS + 1)
    skip = EXPERT_LAYERS if t.shape.experts else set()
    seconds = np.zeros(len(sizes))
    kernels = 1 * t.shape.layers
    for layer, rows in t.dense.groupby("layer"):
        runs = PER_LAYER.get(str(layer), 0) * t.shape.layers + (layer in ONCE)
        if runs == 0 or layer in skip:
            continue
        curve = layer_curve(rows, "tokens", weights_of(str(layer), t.shape), t.gpu)
        seconds += runs * by_size(curve, padded(sizes))
        kernels += runs
    seconds += gaps_s(sizes, kernels, assumed())
    return np.maximum.accumulate(np.where(sizes == 0, 0.0, seconds))


def _head_table(t: Tables) -> np.ndarray:
    sizes = np.arange(MAX_ROWS + 1)
    seconds = np.zeros(len(sizes))
    for layer, rows in t.per_sequence.groupby("layer"):
        curve = layer_curve(rows, "sequences", weights_of(str(layer), t.shape), t.gpu)
        seconds += by_size(curve, sizes)
    return np.where(sizes == 0, 0.0, seconds)


def _expert_table(t: Tables, ep: int) -> np.ndarray:
    """By the tokens of all ranks together: each rank runs its share of the token-expert pairs."""
    if t.moe is None:
        return nothing()
    sizes = np.arange(MAX_TOKENS + 1)
    each = padded(np.ceil(sizes / ep)).astype(np.float64)
    awake = activated(each * ep, t.shape.experts, t.shape.experts_per_token) / ep
    seconds = expert_seconds(t.moe, t.shape, t.gpu, each, awake)
    if t.gpu is not None:
        seconds = seconds + exchange_s(each * ep, t.shape, t.gpu, ep)
    return np.maximum.accumulate(np.where(sizes == 0, 0.0, t.shape.layers * seconds))


def _coverage(t: Tables, ep: int) -> Coverage:
    _, axes = grids.scatter(t.attention)
    return Coverage(
        tokens=tuple(sorted({float(s) for s in t.dense["tokens"]})),
        rows=tuple(sorted({float(s) for s in t.per_sequence["sequences"]})),
        attention=tuple(tuple(axis.tolist()) for axis in axes),
        experts=tuple(sorted({float(s) for s in t.moe["tokens"]})) if t.moe is not None else (),
        ep=ep,
    )
