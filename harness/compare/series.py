"""Metrics over time, binned for the report: mean over seeds, None where a bin saw nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from harness.runlog import Run

BINS = 100
QUIET = ("tick", "trainer", "trainer_state", "trained", "drafter", "replay", "front_end", "client", "dropped")
"""Kinds of event that are no marks on a time axis."""


def time_series(run: Run, end: float) -> dict[str, Any]:
    """`edges` (BINS + 1 times), per arm the binned curves, `domains` (share of arrivals), `marks` (events).

    Curves: acceptance_length, k and batch (means over decode steps), waiting (mean over steps),
    tokens_per_second (by step), goodput (gross; a request's tokens count where it finished), and
    acceptance_of_finished (a request's verify steps count where it finished: known without a log of steps).
    `arms` holds their means over seeds, `low` and `high` the least and the greatest seed, `k_share`
    per K the share of decode steps that used it (mean over seeds).
    Marks are those of the first seed: other seeds' lie elsewhere in time.
    """
    edges = np.linspace(0.0, end, BINS + 1)
    first = run.seeds[0]
    cells = {arm: [_cell(run, arm, seed, edges) for seed in run.seeds] for arm in run.arms}
    curves = {arm: [c for c, _ in found] for arm, found in cells.items()}
    return {
        "edges": edges.tolist(),
        "arms": {arm: _over_seeds(found, _mean) for arm, found in curves.items()},
        "low": {arm: _over_seeds(found, np.fmin.reduce) for arm, found in curves.items()},
        "high": {arm: _over_seeds(found, np.fmax.reduce) for arm, found in curves.items()},
        "k_share": {arm: _shares([s for _, s in found]) for arm, found in cells.items()},
        "domains": _domains(run.requests(run.arms[0], columns=("arrival", "domain")), edges),
        "marks": {arm: _marks(run.events(arm, first)) for arm in run.arms},
        "marks_seed": first,
    }


def _cell(run: Run, arm: str, seed: int, edges: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Curves of one cell, each float64[BINS], NaN where undefined; decode steps by K, int64[K + 1, BINS]."""
    sums, by_k = _step_sums(run, arm, seed, edges)
    names = ("finish", "output_tokens", "slo_met", "status", "accepted_tokens", "verify_steps")
    requests = run.requests(arm, seed, columns=names)
    finished = requests[requests["status"] == "finished"]
    good = finished[finished["slo_met"]]
    width = edges[1] - edges[0]
    served, accepted, verified = (
        np.histogram(rows["finish"], edges, weights=rows[name])[0]
        for rows, name in ((good, "output_tokens"), (finished, "accepted_tokens"), (finished, "verify_steps"))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        curves = {
            "acceptance_length": 1.0 + sums["accepted"] / sums["verified"],
            "k": sums["k"] / by_k.sum(axis=0),
            "batch": sums["batch"] / by_k.sum(axis=0),
            "waiting": sums["waiting"] / sums["steps"],
            "tokens_per_second": sums["tokens"] / width,
            "goodput": served / width,
            "acceptance_of_finished": 1.0 + accepted / verified,
        }
    return curves, by_k


def _step_sums(run: Run, arm: str, seed: int, edges: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    names = ("start", "batch", "k", "output_tokens", "accepted", "waiting")
    weights: dict[str, Callable[[dict[str, np.ndarray]], Any]] = {
        "steps": lambda c: np.ones(len(c["k"])),
        "k": lambda c: np.where(c["batch"] > 0, c["k"], 0),
        "batch": lambda c: c["batch"],
        "waiting": lambda c: c["waiting"],
        "tokens": lambda c: c["output_tokens"],
        "accepted": lambda c: c["accepted"],
        "verified": lambda c: np.where(c["k"] > 0, c["batch"], 0),
    }
    sums = {name: np.zeros(BINS) for name in weights}
    by_k = np.zeros((1, BINS), np.int64)
    for rows in run.batches("steps", arm, seed, names):
        columns = {name: rows.column(name).to_numpy() for name in names}
        place = np.clip(np.searchsorted(edges, columns["start"], side="right") - 1, 0, BINS - 1)
        for name, weight in weights.items():
            sums[name] += np.bincount(place, weights=weight(columns), minlength=BINS)
        decode = columns["batch"] > 0
        cells = columns["k"][decode].astype(np.int64) * BINS + place[decode]
        by_k = np.pad(by_k, ((0, max(0, int(columns["k"].max()) + 1 - len(by_k))), (0, 0)))
        by_k += np.bincount(cells, minlength=by_k.size).reshape(by_k.shape)
    return sums, by_k


def _domains(requests: pd.DataFrame, edges: np.ndarray) -> dict[str, list[float | None]]:
    labels = requests["domain"].astype(str).to_numpy()
    counts = {d: np.histogram(requests["arrival"][labels == d], edges)[0] for d in np.unique(labels)}
    total = np.sum(list(counts.values()), axis=0) if counts else np.zeros(BINS)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {str(d): _list(c / total) for d, c in counts.items()}


def _marks(events: pd.DataFrame) -> list[dict[str, Any]]:
    told = events[~events["kind"].isin(QUIET)]
    rows = zip(told["time"], told["kind"], told["detail"], strict=True)
    return [{"time": float(time), "kind": str(kind), "detail": detail} for time, kind, detail in rows]


def _shares(seeds: list[np.ndarray]) -> dict[str, list[float | None]]:
    """Per K that some step used: its share of the decode steps of each bin."""
    top = max(len(by_k) for by_k in seeds)
    counts = [np.pad(by_k, ((0, top - len(by_k)), (0, 0))) for by_k in seeds]
    used = [k for k in range(top) if any(c[k].any() for c in counts)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return _over_seeds([{str(k): c[k] / c.sum(axis=0) for k in used} for c in counts], _mean)


def _over_seeds(
    seeds: list[dict[str, np.ndarray]], condense: Callable[[np.ndarray], np.ndarray]
) -> dict[str, list[float | None]]:
    """Each curve condensed over seeds, which lie along the first axis."""
    return {name: _list(condense(np.stack([s[name] for s in seeds]))) for name in seeds[0]}


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: np.ndarray = np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)
    return mean


def _list(values: np.ndarray) -> list[float | None]:
    return [round(float(v), 6) if np.isfinite(v) else None for v in values]
