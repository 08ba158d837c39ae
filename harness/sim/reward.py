"""What a control tick is worth to a policy that learns K in the simulator.

    reward = engine seconds of the tick * log(speedup over K = 0)

The harness judges by paired speedups over the same requests, whose mean is taken over logarithms: this is that
logarithm, weighed by engine time. *Speedup*: expected tokens per second of the steps that decoded, over those that the
latency model predicts of the same steps with K = 0. Expected tokens (the acceptance length that the simulator knows,
not the tokens it drew) have the same mean and a fraction of the noise; seconds are those that passed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.policy import PolicyContext
from harness.policy.costs import StepCosts
from harness.sim.state import STEP


class Reward:
    """Of one run, tick by tick."""

    def __init__(self, context: PolicyContext) -> None:
        self._costs = StepCosts(context)

    def of(self, steps: Sequence[np.ndarray], context: float, length: Sequence[float]) -> float:
        """Of a tick with `steps` (rows of `state.STEP`) at `context` tokens a sequence; `length` is the expected
        acceptance length by K of what served. 0 where nothing decoded."""
        rows: np.ndarray = np.concatenate(steps) if steps else np.empty(0, STEP)
        rows = rows[rows["batch"] > 0]
        if not len(rows):
            return 0.0
        seconds = float(rows["seconds"].sum())
        batch = rows["batch"].astype(np.float64)
        tokens = float((batch * np.asarray(length)[rows["k"]]).sum())
        return seconds * math.log(tokens / batch.sum() * self._plain(rows, context) / seconds)

    def _plain(self, rows: np.ndarray, context: float) -> float:
        """Predicted seconds of the same steps with K = 0."""
        batch, none = rows["batch"].astype(np.float64), np.zeros(len(rows), dtype=np.intp)
        seconds = self._costs.at(self._costs.seconds(context), batch, none)
        chunks = rows["prefill_tokens"] > 0
        if chunks.any():
            extra = self._costs.prompt_extra(float(rows["prefill_tokens"][chunks].mean()))
            seconds = seconds + np.where(chunks, self._costs.at(extra, batch, none), 0.0)
        return float(seconds.sum())
