"""Measured kernels of one GPU, whatever tool measured them: one table of rows for each operation.

`OPS` says for each operation which columns are sizes of a step (`steps`), which are sizes of a model
(`dims`), what it must do (`cost`) and which terms its cost law is made of (`terms`, see `surface`). The
importers of `importers/` fill these tables; `surface`, `compose`, `heldout` and `crosscheck` read them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from harness.errors import InputError
from harness.latency.specs import BYTES, Gpu

Columns = dict[str, np.ndarray]
"""float64 arrays of equal length by column name (text columns as they are)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an operation must do: cold bytes (weights, KV), matrix FLOPs, warm bytes (activations)."""

    cold: np.ndarray
    flops: np.ndarray
    warm: np.ndarray


def pairs(chunk: np.ndarray, prefix: np.ndarray) -> np.ndarray:
    """Query-key pairs of a prompt chunk behind a prefix, causal."""
    return np.asarray(chunk * prefix + chunk * (chunk + 1) / 2)


def _gemm(c: Columns) -> Cost:
    m, n, k = c["m"], c["n"], c["k"]
    return Cost(BYTES * n * k, 2 * m * n * k, BYTES * m * (n + k))


def _attention(c: Columns) -> Cost:
    """K and V of every context token read once, whatever the number of query tokens."""
    kv = c["batch"] * c["context"]
    queries = c["batch"] * c["query_tokens"] * c["q_heads"] * c["head_dim"]
    flops = 4 * c["query_tokens"] * kv * c["q_heads"] * c["head_dim"]
    return Cost(2 * BYTES * kv * c["kv_heads"] * c["head_dim"], flops, 2 * BYTES * queries)


def _prefill(c: Columns) -> Cost:
    """The chunk's own K and V have just been written: warm; those of the prefix are cold."""
    tokens = c["batch"] * c["chunk"]
    cold = 2 * BYTES * c["batch"] * c["prefix"] * c["kv_heads"] * c["head_dim"]
    flops = 4 * c["batch"] * pairs(c["chunk"], c["prefix"]) * c["q_heads"] * c["head_dim"]
    return Cost(cold, flops, 2 * BYTES * tokens * (c["q_heads"] + c["kv_heads"]) * c["head_dim"])


def _head(c: Columns) -> Cost:
    rows, vocab, hidden = c["rows"], c["vocab"], c["hidden"]
    return Cost(BYTES * vocab * hidden, 2 * rows * vocab * hidden, BYTES * rows * hidden)


def _fusion(c: Columns) -> Cost:
    tokens, hidden = c["tokens"], c["hidden"]
    return Cost(3 * BYTES * hidden**2, 6 * tokens * hidden**2, 4 * BYTES * tokens * hidden)


def _warm(elements: Callable[[Columns], np.ndarray]) -> Callable[[Columns], Cost]:
    """An operation on activations alone: `elements` read or written."""

    def cost(c: Columns) -> Cost:
        warm = BYTES * np.asarray(elements(c), dtype=np.float64)
        return Cost(np.zeros_like(warm), np.zeros_like(warm), warm)

    return cost


def _rejection(c: Columns) -> Cost:
    """Greedy: ids only (4 bytes each). Otherwise every target logit, and one row of draft probabilities."""
    rows = c["batch"] * (c["k"] + 1)
    sampled = (c["mode"] != "greedy") * BYTES * rows * c["vocab"]
    drawn = (c["mode"] == "stochastic") * (c["k"] > 0) * 4 * c["batch"] * c["vocab"]
    warm = 4 * (2 * rows + c["batch"] * c["k"])
    return Cost(np.asarray(sampled + drawn, dtype=np.float64), np.zeros_like(rows), warm)


def _rows_terms(c: Columns) -> list[np.ndarray]:
    return []


def _attention_terms(c: Columns) -> list[np.ndarray]:
    return [c["batch"] * c["kv_heads"], c["context"]]


def _prefill_terms(c: Columns) -> list[np.ndarray]:
    return [c["batch"] * c["q_heads"]]


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One operation's columns and cost."""

    steps: tuple[str, ...]
    """Sizes of a step; time never falls along them."""
    dims: tuple[str, ...]
    """Sizes of a model."""
    cost: Callable[[Columns], Cost] | None
    """None for composed operations: their floor is that of their parts."""
    terms: Callable[[Columns], list[np.ndarray]] = _rows_terms
    """Further terms of the cost law, beside a constant, the roofline and warm bytes."""
    overlaps: bool = True
    """Whether memory traffic hides behind arithmetic (the law takes their maximum) or adds to it."""
    between: tuple[str, ...] = ()
    """Dims over which a dense table may be interpolated to another model."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.steps, *self.dims)


HEADS = ("q_heads", "kv_heads", "head_dim")
MODELS = ("q_heads", "kv_heads")
WHOLE_STEPS = ("batch", "query_tokens", "context")
OPS: dict[str, OpSpec] = {
    "gemm": OpSpec(("m",), ("n", "k"), _gemm, between=("n", "k")),
    "attention": OpSpec(
        ("batch", "query_tokens", "context"), HEADS, _attention, _attention_terms, False, MODELS
    ),
    "prefill": OpSpec(("batch", "chunk", "prefix"), HEADS, _prefill, _prefill_terms, False, MODELS),
    "rmsnorm": OpSpec(("rows",), ("hidden",), _warm(lambda c: 4 * c["rows"] * c["hidden"])),
    "rotary": OpSpec(
        ("tokens",),
        (*HEADS, "qk_norm"),
        _warm(lambda c: c["tokens"] * (2 * c["q_heads"] + 4 * c["kv_heads"]) * c["head_dim"]),
    ),
    "swiglu": OpSpec(("rows",), ("intermediate",), _warm(lambda c: 3 * c["rows"] * c["intermediate"])),
    "embedding": OpSpec(("tokens",), ("hidden",), _warm(lambda c: 2 * c["tokens"] * c["hidden"])),
    "lm_head": OpSpec(("rows",), ("vocab", "hidden", "top", "mapped"), _head),
    "fusion": OpSpec(("tokens",), ("hidden",), _fusion),
    "rejection": OpSpec(("batch", "k"), ("vocab", "mode"), _rejection),
    "verify_step": OpSpec(WHOLE_STEPS, ("model", "drafter"), None),
    "layer": OpSpec(WHOLE_STEPS, ("model", "drafter"), None),
    "draft_pass": OpSpec(WHOLE_STEPS, ("model", "drafter"), None),
}
TEXT = ("model", "mode")


@dataclass(frozen=True, eq=False)
class KernelRows:
    """The checked tables of one GPU; each has its operation's columns and `us`, one row per shape."""

    name: str
    """Of the profile or folder."""
    source: str
    """What measured it, for provenance."""
    device: str
    gpu: Gpu | None
    """The card of `specs.toml`; None if it is not listed there."""
    bytes_s: float
    """For floors: measured where the source measured it, else the data sheet's."""
    flops_s: float
    tables: dict[str, pd.DataFrame]
    skewed: pd.DataFrame | None = None
    """Attention over unequal contexts: the columns of `attention`, `skew` and `us`."""
    model_grid: bool = False
    """Whether `dims` form a grid dense enough to interpolate in: other models can be composed."""
    ceilings_measured: bool = False
    launches_included: bool = False
    """Whether a row's time holds the gap to the next kernel (calls replayed in a CUDA graph)."""
    notes: tuple[str, ...] = ()
    """What is converted or left out, in sentences."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows not used, by reason."""


def columns_of(frame: pd.DataFrame, op: str) -> Columns:
    """The operation's columns of `frame` as arrays."""
    return {
        name: frame[name].to_numpy() if name in TEXT else frame[name].to_numpy(dtype=np.float64)
        for name in OPS[op].columns
    }


def floor_us(op: str, columns: Columns, bytes_s: float, flops_s: float) -> np.ndarray:
    """Roofline floor: the longer of cold bytes over bandwidth and FLOPs over the matrix rate; microseconds."""
    cost = OPS[op].cost
    if cost is None:
        raise InputError(f"operation {op!r} is composed of others; its floor is that of its parts")
    does = cost(columns)
    return np.maximum(does.cold / bytes_s, does.flops / flops_s) * 1e6


def law_terms(op: str, columns: Columns, bytes_s: float, flops_s: float) -> np.ndarray:
    """float64[rows, terms]: what a non-negative combination of makes the operation's cost law."""
    spec = OPS[op]
    assert spec.cost is not None
    does = spec.cost(columns)
    reads, works = does.cold / bytes_s, does.flops / flops_s
    roof = [np.maximum(reads, works)] if spec.overlaps else [reads, works]
    return np.stack([np.ones(len(reads)), *roof, does.warm, *spec.terms(columns)], axis=1)


def checked(op: str, frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """`frame` with the operation's columns and `us`, equal shapes averaged (median).

    Raises InputError where a column is missing, a size is not a finite number of at least 0, or a time is
    not positive.
    """
    wanted = (*OPS[op].columns, "us")
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise InputError(f"{where}: {op} rows lack {missing[0]!r}; they have {', '.join(map(str, frame))}")
    frame = frame[list(wanted)].copy()
    for name in wanted:
        if name in TEXT:
            frame[name] = frame[name].astype(str)
            continue
        values = pd.to_numeric(frame[name], errors="coerce").astype(np.float64)
        bad = ~(np.isfinite(values) & ((values > 0) if name == "us" else (values >= 0)))
        if bad.any():
            value = frame[name][bad].iloc[0]
            rule = "a positive time" if name == "us" else "a finite size, not negative"
            raise InputError(f"{where}: {op} row with {name} = {value}; it must be {rule}")
        frame[name] = values
    return frame.groupby(list(OPS[op].columns))[["us"]].median().reset_index()
