"""How wrong the tables are where they were not measured: fit without every fifth row, predict those rows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import InputError
from harness.latency import curves, tables
from harness.latency import grid as grids

EVERY = 5


def heldout_error(path: str | Path) -> dict[str, float]:
    """Mean absolute relative error on held-out rows, per table: `dense` (each kernel counts alike, small
    ones too), `dense_total` (their sum at each size), `per_sequence`, `attention`, `attention_decode`, `moe`.

    Rows outside the sizes that remain are left out: they would test extrapolation. Raises as `tables.read`.
    """
    t = tables.read(Path(path))
    found = {
        "dense": _curves(t.dense, "tokens"),
        "dense_total": _curves(_total(t.dense), "tokens"),
        "per_sequence": _curves(t.per_sequence, "sequences"),
        "attention": _attention(t.attention),
        "attention_decode": _attention(t.attention[t.attention["prefill_chunk"] == 0]),
    }
    if t.moe is not None:
        found["moe"] = _experts(t)
    return found


def _total(dense: pd.DataFrame) -> pd.DataFrame:
    return dense.pivot_table(index="tokens", values="time_us", aggfunc="sum").reset_index()


def held_out(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Kept and held-out rows: one of every five, each time the next, so that no column of a grid goes."""
    index = np.arange(len(rows))
    out = index % EVERY == (index // EVERY) % EVERY
    return rows[~out], rows[out]


def _error(predicted: np.ndarray, true: np.ndarray) -> float:
    if len(true) == 0:
        raise InputError("a table has too few rows to hold out every fifth and predict it")
    return float(np.mean(np.abs(predicted - true) / true))


def _curves(rows: pd.DataFrame, size: str) -> float:
    predicted, true = [], []
    for _, layer in rows.groupby("layer") if "layer" in rows else [("", rows)]:
        kept, out = held_out(layer.sort_values(size))
        out = out[out[size].between(kept[size].min(), kept[size].max())]
        predicted.append(curves.by_size(kept.set_index(size)["time_us"], out[size].to_numpy()))
        true.append(out["time_us"].to_numpy())
    return _error(np.concatenate(predicted), np.concatenate(true))


def _attention(rows: pd.DataFrame) -> float:
    kept, out = held_out(rows)
    scattered, axes = grids.scatter(kept)
    grid = grids.monotone(grids.complete(scattered, axes))
    columns = [out[name].to_numpy(float) for name in grids.AXES]
    columns[3] = np.where(columns[2] == 0, axes[3][0], columns[3])
    known = np.all([np.isin(c, axis) for c, axis in zip(columns, axes, strict=True)], axis=0)
    at = tuple(np.searchsorted(axis, c[known]) for c, axis in zip(columns, axes, strict=True))
    return _error(grid[at], out["time_us"].to_numpy()[known] * 1e-6)


def _experts(t: tables.Tables) -> float:
    assert t.moe is not None
    kept, out = held_out(t.moe)
    out = out[out["tokens"].between(kept["tokens"].min(), kept["tokens"].max())]
    predicted = curves.expert_seconds(
        kept, t.shape, None, out["tokens"].to_numpy(), out["activated_experts"].to_numpy()
    )
    return _error(predicted, out["time_us"].to_numpy() * 1e-6)


def main(folders: list[str]) -> None:
    for folder in folders:
        print(folder)
        for name, error in heldout_error(folder).items():
            print(f"  {name:18s} {100 * error:5.1f}%")


if __name__ == "__main__":
    main(sys.argv[1:])
