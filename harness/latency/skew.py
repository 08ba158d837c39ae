"""How much slower a batch of unequal contexts is than a level one.

A measured batch lies between a level batch at its mean context and one at its longest:
alpha = (t_skew - t_mean) / (t_max - t_mean). Alpha depends above all on the number of sequences, through
the waves in which the card runs them, and on whether prompts share the kernel; within one number of
sequences we take the constant with the least squared relative error of t_skew.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

REGIMES = ("pure", "mixed")


def alphas(rows: pd.DataFrame | None, seqs: np.ndarray, regime: str) -> np.ndarray:
    """Alpha in 0..1 at each of the sequence counts `seqs`; 0 without a skew table (no correction)."""
    if rows is None:
        return np.zeros(len(seqs))
    own = rows[rows["regime"] == regime]
    sizes = np.unique(own["n"].to_numpy())
    if len(sizes) == 0:
        return np.zeros(len(seqs))
    fitted = [_fit(own[own["n"] == n]) for n in sizes]
    return np.clip(np.interp(seqs, sizes, fitted), 0.0, 1.0)


def _fit(rows: pd.DataFrame) -> float:
    spread = ((rows["t_max_us"] - rows["t_mean_us"]) / rows["t_skew_us"]).to_numpy()
    excess = ((rows["t_skew_us"] - rows["t_mean_us"]) / rows["t_skew_us"]).to_numpy()
    return float(spread @ excess / max(spread @ spread, 1e-12))
