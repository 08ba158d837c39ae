"""What an oracle may ask for. This module and the oracles are the only doors to the simulator's truth."""

from __future__ import annotations

import numpy as np

from harness.policy import Truth
from harness.sim.acceptance import acceptance_length
from harness.sim.engine import Engine
from harness.sim.learning import DrafterState, LearningCurve


class TruthTeller:
    """Answers for one run; acceptance lengths are cached per drafter and verifier."""

    def __init__(self, engine: Engine, curve: LearningCurve) -> None:
        self._engine = engine
        self._curve = curve
        self._lengths: dict[tuple[int, int], np.ndarray] = {}
        self._kept: list[DrafterState] = []

    def tell(
        self,
        serving: DrafterState,
        static: DrafterState,
        newest: DrafterState,
        candidate: DrafterState | None,
        verifier: int,
    ) -> Truth:
        """Acceptance lengths for K = 0..max_k over the domains that run now."""
        state, reg = self._engine.state, self._engine.state.reg[0]
        running = state.slots["domain"][state.running[: reg["running"]]]
        mix = np.bincount(running, minlength=len(self._engine.labels.domains)).astype(float)
        if mix.sum() == 0:
            mix[:] = 1.0
        mix /= mix.sum()

        def length(drafter: DrafterState) -> tuple[float, ...]:
            return tuple((mix @ self._table(drafter, verifier)).tolist())

        batch = max(int(reg["batch"]), 1)
        return Truth(
            acceptance_length=length(serving),
            batch=batch,
            context=self._engine.gauges(0.0).mean_context,
            candidate_acceptance_length=length(candidate) if candidate is not None else None,
            static_acceptance_length=length(static),
            trained_acceptance_length=length(newest),
        )

    def _table(self, drafter: DrafterState, verifier: int) -> np.ndarray:
        """float64[domains, max_k + 1]"""
        key = (id(drafter), verifier)
        if key not in self._lengths:
            self._kept.append(drafter)  # keeps the id from being used again
            logits = self._curve.logits(drafter)
            sds = self._engine.labels.latent_sd
            ks = range(self._engine.config.max_k + 1)
            self._lengths[key] = np.array(
                [[acceptance_length(row, sd, k) for k in ks] for row, sd in zip(logits, sds, strict=True)]
            )
        return self._lengths[key]
