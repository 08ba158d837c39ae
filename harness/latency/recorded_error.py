"""How wrong a recorded model is at batch sizes and K it was not fitted to: every fifth (batch, K) left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.latency.heldout import EVERY
from harness.latency.recorded_fit import Cells, fit


@dataclass(frozen=True, slots=True)
class StepError:
    """Relative errors on held-out steps of one arm and K."""

    arm: str
    """`all`: every arm."""
    k: int | None
    """None: every K."""
    typical: float
    """Mean over (batch, K) shapes, weighted by steps, of |median of measured / predicted - 1|, the prediction
    taken before stalls were added to it: what the fit misses."""
    mean: float
    """The same of |predicted / measured mean seconds - 1|: with what chance stalls do to a shape's few steps."""
    bias: float
    """Of the total seconds: positive when predictions are too slow."""
    shapes: int
    steps: int


def held_out_steps(cells: Cells) -> pd.DataFrame:
    """`frame`, `batch`, `k`, `seconds`, `predicted` and `ratio` (measured to predicted, before stalls) of the
    steps that could be held out.

    Each fifth of the (batch, K) shapes is left out in turn, whole. Shapes beyond the sizes that remain are
    not asked: they would test extrapolation.
    """
    keys = cells.steps[["k", "batch"]].groupby(["k", "batch"], sort=True)
    shape = np.zeros(len(cells.count), np.int64)
    shape[cells.of] = keys.ngroup().to_numpy()
    fold = (shape - shape // EVERY) % EVERY  # the next of every five, so that no batch size or K goes whole
    size = {n: np.bincount(cells.of, cells.steps[n]) / cells.count for n in ("tokens", "batch", "passes")}
    predicted, typical = np.full(len(cells.count), np.nan), np.ones(len(cells.count))
    for number in range(EVERY):
        out = fold == number
        if not out.any() or out.all():
            continue
        inside = np.all([_within(values, out) for values in size.values()], axis=0)
        weights = fit(cells, ~out)
        predicted[out & inside] = (cells.design @ weights.values)[out & inside]
        typical[out] = (cells.design @ weights.typical)[out]
    frame = cells.steps[["frame", "batch", "k", "seconds"]].assign(predicted=predicted[cells.of])
    frame["ratio"] = frame["seconds"] / typical[cells.of]
    return frame[frame["predicted"].notna()]


def _within(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    return (values >= values[~out].min()) & (values <= values[~out].max())


def step_errors(held: pd.DataFrame, arms: Sequence[str]) -> list[StepError]:
    """Per arm and K, per arm, and of all; `arms` names the arm of each frame. Empty if nothing was held out."""
    if held.empty:
        return []
    named = held.assign(arm=np.array(arms)[held["frame"].astype(int)])
    found = []
    for arm in dict.fromkeys(arms):
        own = named[named["arm"] == arm]
        found += [_error(arm, int(k), own[own["k"] == k]) for k in sorted(own["k"].unique())]
        found += [_error(arm, None, own)] if len(own) else []
    return [*found, _error("all", None, named)]


def _error(arm: str, k: int | None, steps: pd.DataFrame) -> StepError:
    groups = steps.groupby(["arm", "batch", "k"])
    shapes, count = groups[["seconds", "predicted"]].sum(), groups.size().to_numpy()
    off = (shapes["predicted"] / shapes["seconds"] - 1.0).abs().to_numpy()
    typical = (groups["ratio"].median() - 1.0).abs().to_numpy()
    return StepError(
        arm=arm,
        k=k,
        typical=float(np.average(typical, weights=count)),
        mean=float(np.average(off, weights=count)),
        bias=float(steps["predicted"].sum() / steps["seconds"].sum() - 1.0),
        shapes=len(shapes),
        steps=len(steps),
    )
