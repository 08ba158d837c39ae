"""What a trainer on the server's cores takes from its steps, as a run log tells it.

A live log says from when to when the trainer worked (a simulated or older one how many optimiser steps it had made at
every control tick, and how many seconds it worked in all). Steps alike (arm, seed, batch, K, draft passes) that ran
while it worked are held against those that ran while it rested, so nothing that differs between arms is blamed on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.runlog import Run

WINDOW_S, WINDOW_STEPS = 1.0, 2.0
"""Where only ticks tell, the share of its time that the trainer worked is taken over such a window, for it reports four
times a second, or over so many of its optimiser steps if that is longer: a step shows when it is over."""
FEWEST = 30
"""Steps alike that are enough to be held against each other."""
MOST_TIMES = 1.5
"""A step of more than so many times the median of those alike met a stall, and counts as this much."""
ROUNDS = 5
"""The base of steps alike follows from the slowdown and the slowdown from the base: both settle within these."""
CLUSTER_S = 5.0
"""Steps within so many seconds may have a cause in common; the error counts them as one."""
SURE = 2.0
"""Standard errors above which the slowdown is believed."""


@dataclass(frozen=True, eq=False)
class Working:
    """When the trainer of one arm and seed worked."""

    times: np.ndarray
    """float64[moments], rising."""
    seconds: np.ndarray
    """float64[moments]: how long it had worked until then."""
    window: float = 0.0
    """Shorter stretches than so many seconds cannot be told apart."""

    def share(self, start: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """Share of each stretch (`seconds` from `start` on, widened to the window) in which it worked, 0..1."""
        width = np.maximum(seconds, max(self.window, np.finfo(float).tiny))
        around = [
            np.interp(start + (seconds + side * width) / 2, self.times, self.seconds) for side in (-1.0, 1.0)
        ]
        return np.clip((around[1] - around[0]) / width, 0.0, 1.0)


def working(run: Run, arm: str, seed: int) -> Working | None:
    """None where no trainer worked, or the log does not tell."""
    spans = [span for d in run.events(arm, seed, ("trained",))["detail"] for span in d["spans"]]
    if spans:
        began, ended = np.array(spans, np.float64).T
        done = np.cumsum(ended - began)
        return Working(
            np.array(spans, np.float64).ravel(), np.stack([done - (ended - began), done], 1).ravel()
        )
    worked = [d.get("busy_seconds") for d in run.events(arm, seed, ("trainer",))["detail"]]
    ticks = run.events(arm, seed, ("tick",))
    told = [
        (t, d["trainer"][0]) for t, d in zip(ticks["time"], ticks["detail"], strict=True) if d.get("trainer")
    ]
    if not worked or not worked[-1] or not told or not told[-1][1]:
        return None
    times, steps = np.array(told, np.float64).T
    each = worked[-1] / steps[-1]
    return Working(times, steps * each, max(WINDOW_S, WINDOW_STEPS * each))


@dataclass(frozen=True, slots=True)
class Interference:
    """By what factor a step takes longer while the trainer works."""

    slowdown: float = 0.0
    """The factor less 1, as measured: so that seconds sum to the measured ones, whatever the sizes of steps."""
    error: float = math.inf
    """Its standard error; infinite where nothing could be measured."""

    @property
    def factor(self) -> float:
        """1 unless the slowdown stands out from the noise."""
        return 1.0 + self.slowdown if self.slowdown > SURE * self.error else 1.0

    def text(self) -> str:
        if not math.isfinite(self.error):
            return "none seen at work beside the server"
        told = f"measured: a step takes {1.0 + self.slowdown:.3f} +- {self.error:.3f} times as long while it works"
        return told if self.factor > 1.0 else f"{told}, taken as 1"


def interference(steps: pd.DataFrame) -> Interference:
    """Regress seconds on `training` within steps alike; `steps` as `recorded_steps.step_rows` gives them.

    A step of a group alike takes base (1 + slowdown x), where x is the share of it that the trainer worked. Least
    squares with weights 1 / base, so that long steps count as much as the time they take: one slowdown for all.
    """
    rows = steps[steps["prefill"] == 0]
    rows = rows[rows.groupby("frame")["training"].transform("max") > 0]
    alike = ["frame", "batch", "k", "passes"]
    rows = rows[rows.groupby(alike)["seconds"].transform("size") >= FEWEST]
    if rows.empty:
        return Interference()
    groups = [rows[n] for n in alike]
    median = rows["seconds"].groupby(groups).transform("median")
    y = rows["seconds"].clip(median / MOST_TIMES, median * MOST_TIMES)
    mean_x, mean_y = (v.groupby(groups).transform("mean") for v in (rows["training"], y))
    x, y = rows["training"] - mean_x, y - mean_y
    if float((x**2).sum()) < 1e-9:
        return Interference()
    slowdown = 0.0
    for _ in range(ROUNDS):
        base = mean_y / (1.0 + slowdown * mean_x)
        weight = float((base * x**2).sum())
        slowdown = float((x * y).sum()) / weight
    cluster = rows.groupby(["frame", rows["start"] // CLUSTER_S]).ngroup().to_numpy()
    scores = np.bincount(cluster, (x * (y - slowdown * base * x)).to_numpy())
    return Interference(slowdown, float(np.sqrt((scores**2).sum())) / weight)


def undone(steps: pd.DataFrame, found: Interference) -> pd.DataFrame:
    """`steps` as they would have been with the trainer at rest."""
    return steps.assign(seconds=steps["seconds"] / (1.0 + (found.factor - 1.0) * steps["training"]))
