"""What whole passes say beyond their kernels, fitted by least squares of the relative error, never negative.

    verify step = factor * kernels + gap + row * rows         (factor in 0.9..1.1)
    draft pass  = its kernels but attention + pass + kv * context tokens

`factor` is what kernels cost in company over alone (cache, clock); `gap` is once a step, `row` per row of it
(embedding, copies of hidden states); `kv` is the drafter's own attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import lsq_linear

from harness.latency.compose import Composition
from harness.latency.heldout import held_out
from harness.latency.rowerror import OpError, summary

FACTOR = (0.9, 1.1)
FEWEST = 6
"""Whole passes needed to fit a gap."""


@dataclass(frozen=True, slots=True)
class StepGap:
    """Seconds of a step beyond its kernels."""

    factor: float = 1.0
    step_s: float = 0.0
    row_s: float = 0.0

    def seconds(self, kernels: np.ndarray, floor: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Whole steps of these kernel seconds and rows, never under the kernels' floor."""
        return np.maximum(self.factor * kernels, floor) + self.step_s + self.row_s * rows


@dataclass(frozen=True, slots=True)
class DraftGap:
    """Seconds of a draft pass beyond its kernels, and its attention per context token."""

    pass_s: float
    kv_s: float


def steps_of(table: pd.DataFrame | None, model: str) -> pd.DataFrame:
    """The whole passes of one model (rows of `verify_step`, `layer` or `draft_pass`)."""
    if table is None:
        return pd.DataFrame(columns=["batch", "query_tokens", "context", "us"])
    return table[table["model"] == model]


def kernels_s(parts: Composition, steps: pd.DataFrame) -> np.ndarray:
    """Sum of the kernels of verify steps."""
    batch, query, context = (steps[n].to_numpy(float) for n in ("batch", "query_tokens", "context"))
    rows = batch * query
    return parts.tokens_s(rows) + parts.attention_s(query, batch, context) + parts.head_s(rows)


def fit_steps(parts: Composition, steps: pd.DataFrame) -> StepGap:
    """The gap with the least squared relative error on `steps`; zero where there are too few."""
    if len(steps) < FEWEST:
        return StepGap()
    true = steps["us"].to_numpy(float) * 1e-6
    rows = (steps["batch"] * steps["query_tokens"]).to_numpy(float)
    terms = np.stack([kernels_s(parts, steps), np.full(len(true), 1e-3), rows * 1e-6], axis=1)
    low, high = np.array([FACTOR[0], 0.0, 0.0]), np.array([FACTOR[1], np.inf, np.inf])
    found = lsq_linear(terms / true[:, None], np.ones(len(true)), (low, high), method="bvls").x
    return StepGap(float(found[0]), float(max(found[1], 0.0)) * 1e-3, float(max(found[2], 0.0)) * 1e-6)


def predict_steps(parts: Composition, floors: Composition, gap: StepGap, steps: pd.DataFrame) -> np.ndarray:
    """Seconds of verify steps, graph padding and host left out, as they were measured."""
    rows = (steps["batch"] * steps["query_tokens"]).to_numpy(float)
    return gap.seconds(kernels_s(parts, steps), kernels_s(floors, steps), rows)


def _pass_s(parts: Composition, passes: pd.DataFrame) -> np.ndarray:
    """Kernels of draft passes but their attention."""
    batch, query = passes["batch"].to_numpy(float), passes["query_tokens"].to_numpy(float)
    first = parts.draft_layer_s(batch * query, True)
    layer = np.where(query > 1, first, parts.draft_layer_s(batch * query, False))
    return layer + parts.draft_head_s(batch)


def fit_draft(parts: Composition, passes: pd.DataFrame) -> DraftGap:
    """The draft gap with the least squared relative error on `passes`.

    `kv_s` is never under the bytes of a token over the bandwidth; without enough passes it is the slope of
    the target's own attention, and the pass costs nothing more.
    """
    shape, tp = parts.rank.shape, parts.rank.tp
    floor = shape.kv_bytes_token / shape.layers / tp / parts.kernels.rows.bytes_s
    if len(passes) < FEWEST:
        two = np.array([4096.0, 8192.0])
        low, high = parts.attention_s(np.ones(2), np.full(2, 16.0), two) / shape.layers
        return DraftGap(0.0, max(floor, float(high - low) / (16.0 * 4096)))
    true = passes["us"].to_numpy(float) * 1e-6
    tokens = (passes["batch"] * passes["context"]).to_numpy(float)
    terms = np.stack([np.full(len(true), 1e-6), tokens * 1e-9], axis=1) / true[:, None]
    rest = 1.0 - _pass_s(parts, passes) / true
    found = lsq_linear(
        terms, rest, (np.array([0.0, floor * 1e9]), np.array([np.inf, np.inf])), method="bvls"
    ).x
    return DraftGap(float(max(found[0], 0.0)) * 1e-6, float(max(found[1] * 1e-9, floor)))


def predict_draft(parts: Composition, gap: DraftGap, passes: pd.DataFrame) -> np.ndarray:
    """Seconds of draft passes as they were measured."""
    tokens = (passes["batch"] * passes["context"]).to_numpy(float)
    return _pass_s(parts, passes) + gap.pass_s + gap.kv_s * tokens


def whole_errors(parts: Composition, floors: Composition, model: str) -> list[OpError]:
    """Held-out errors of whole passes: gaps fitted without every fifth, and single layers, never fitted."""
    tables = parts.kernels.rows.tables
    found = []
    steps = steps_of(tables.get("verify_step"), model).sort_values(["context", "query_tokens", "batch"])
    if len(steps) > FEWEST:
        kept, out = held_out(steps)
        predicted = predict_steps(parts, floors, fit_steps(parts, kept), out)
        found.append(summary("verify_step", predicted / (out["us"].to_numpy(float) * 1e-6) - 1.0))
    layers = steps_of(tables.get("layer"), model)
    if len(layers):
        found.append(summary("layer", layer_s(parts, layers) / (layers["us"].to_numpy(float) * 1e-6) - 1.0))
    passes = steps_of(tables.get("draft_pass"), model).sort_values(["context", "query_tokens", "batch"])
    if len(passes) > FEWEST and parts.has_draft:
        kept, out = held_out(passes)
        predicted = predict_draft(parts, fit_draft(parts, kept), out)
        found.append(summary("draft_pass", predicted / (out["us"].to_numpy(float) * 1e-6) - 1.0))
    return found


def layer_s(parts: Composition, layers: pd.DataFrame) -> np.ndarray:
    """Kernels of single layers: no embedding, no head."""
    batch, query, context = (layers[n].to_numpy(float) for n in ("batch", "query_tokens", "context"))
    count = parts.rank.shape.layers
    return parts.layer_s(batch * query) + parts.attention_s(query, batch, context) / count
