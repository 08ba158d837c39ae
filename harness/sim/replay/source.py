"""The `replay` source and its engine: drafts hold as recorded, drafters change as recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import simpy

from harness.errors import InputError
from harness.latency.model import LatencyModel
from harness.policy import Truth
from harness.service import Service
from harness.sim.engine import Engine, EngineConfig, Labels
from harness.sim.external import ExternalEngine
from harness.sim.replay.outcomes import Outcomes
from harness.sim.trainer import Trainer


class ReplayEngine(ExternalEngine):
    """Each step asks `outcomes` what held."""

    def __init__(
        self, config: EngineConfig, labels: Labels, latency: LatencyModel, seed: int, outcomes: Outcomes
    ) -> None:
        super().__init__(config, labels, latency, seed)
        self.outcomes = outcomes

    def _decide(self) -> None:
        s = self.state
        k, version = int(s.reg[0]["k_verify"]), int(s.reg[0]["drafter_version"])
        for slot, row in self._decoding():
            request_id, at = int(row["request_id"]), int(row["generated"])
            s.accept_in[slot] = self.outcomes.accepted(request_id, at, k, version)


class ReplaySource:
    """See `source.Source`. Weights are the recorded version numbers; nothing is learned here."""

    start = 0

    def serve(self, engine: Engine, weights: Any, version: int) -> None:
        engine.state.reg[0]["drafter_version"] = version

    def update_verifier(self, retained: float) -> None:
        """What the drafter kept is in the record."""

    def trainer(
        self, env: simpy.Environment, service: Service, on_busy: Callable[[bool], None]
    ) -> Trainer | None:
        return None

    def truth(self, engine: Engine, service: Service, candidate: Any, verifier: int) -> Truth:
        raise InputError("acceptance 'replay' cannot tell an oracle the truth; leave oracles out")
