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
    mean: float
    """Mean over (batch, K) shapes, weighted by steps, of |predicted / measured mean seconds - 1|."""
    bias: float
    """Of the total seconds: positive when predictions are too slow."""
    shapes: int
    steps: int


def held_out_steps(cells: Cells) -> pd.DataFrame:
    """`frame`, `batch`, `k`, `seconds` and `predicted` of the steps that could be held out.

    Each fifth of the (batch, K) shapes is left out in turn, whole. Shapes beyond the sizes that remain are
    not asked: they would test extrapolation.
    """
    keys = cells.steps[["k", "batch"]].groupby(["k", "batch"], sort=True)
    shape = np.zeros(len(cells.count), np.int64)
    shape[cells.of] = keys.ngroup().to_numpy()
    fold = (shape - shape // EVERY) % EVERY  # the next of every five, so that no batch size or K goes whole
    size = {n: np.bincount(cells.of, cells.steps[n]) / cells.count for n in ("tokens", "batch", "passes")}
    predicted = np.full(len(cells.count), np.nan)
    for number in range(EVERY):
        out = fold == number
        if not out.any() or out.all():
            continue
        inside = np.all([_within(values, out) for values in size.values()], axis=0)
        predicted[out & inside] = (cells.design @ fit(cells, ~out).values)[out & inside]
    frame = cells.steps[["frame", "batch", "k", "seconds"]].assign(predicted=predicted[cells.of])
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
    shapes = steps.groupby(["arm", "batch", "k"])[["seconds", "predicted"]].sum()
    count = steps.groupby(["arm", "batch", "k"]).size().to_numpy()
    off = (shapes["predicted"] / shapes["seconds"] - 1.0).abs().to_numpy()
    return StepError(
        arm=arm,
        k=k,
        mean=float(np.average(off, weights=count)),
        bias=float(steps["predicted"].sum() / steps["seconds"].sum() - 1.0),
        shapes=len(shapes),
        steps=len(steps),
    )
