"""The simulated engine with acceptance decided outside of it: same scheduler, same accounting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from harness.latency.compiled import step_seconds
from harness.latency.model import LatencyModel
from harness.sim.engine import Engine, EngineConfig, Labels
from harness.sim.kernel import commit_step, has_room, plan_step


class ExternalEngine(Engine, ABC):
    """Steps one at a time in Python, because each asks `_decide` what holds."""

    def __init__(self, config: EngineConfig, labels: Labels, latency: LatencyModel, seed: int) -> None:
        super().__init__(config, labels, latency, seed)
        self.state.reg["external"] = 1

    def advance(self, horizon: float, max_steps: int) -> int:
        s, ran = self.state, 0
        while ran < max_steps and self.clock < horizon and has_room(s) and plan_step(s):
            if s.reg[0]["k_verify"] > 0:
                self._decide()
            commit_step(s, step_seconds(self.latency.compiled, s.x) * s.reg[0]["slowdown"])
            ran += 1
            s = self.state
        return ran

    @abstractmethod
    def _decide(self) -> None:
        """Write into `state.accept_in` how many drafts of each decoding request hold in the planned step."""

    def _decoding(self) -> Iterator[tuple[int, np.void]]:
        """(slot, its row of `state.SLOT`) of each sequence that decodes in the planned step."""
        s = self.state
        for slot in s.running[: s.reg[0]["running"]].tolist():
            row = s.slots[slot]
            if row["rows"] > 0 and row["computed"] >= row["target"]:
                yield slot, row
