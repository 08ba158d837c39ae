"""The simulated engine with acceptance decided by a real drafter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.latency.model import LatencyModel
from harness.sim.engine import EngineConfig, Labels
from harness.sim.external import ExternalEngine
from harness.sim.model.tables import Table, Tables
from harness.speculator.judge import Score, walk


@dataclass(frozen=True, slots=True)
class Verified:
    """One verify step of one request."""

    place: int
    """Row of the table."""
    k: int
    accepted: int
    table: Table
    version: int


class ModelEngine(ExternalEngine):
    """Each step asks `tables` what was drafted."""

    def __init__(
        self, config: EngineConfig, labels: Labels, latency: LatencyModel, seed: int, tables: Tables
    ) -> None:
        super().__init__(config, labels, latency, seed)
        self.tables = tables
        self._verified: dict[int, list[Verified]] = {}
        self._notes: list[tuple[str, dict[str, object]]] = []

    def take_done(self) -> np.ndarray:
        """As the base; also walks each text with the serving drafter at the largest K, for the log."""
        done = super().take_done()
        if len(done) and self.config.drafter_loaded:
            ids = done["request_id"].tolist()
            scores = [self._walk(i, t) for i, t in zip(ids, self.tables.of(ids), strict=True)]
            self._notes.append(
                (
                    "drafter",
                    {
                        "requests": ids,
                        "tokens": [s.tokens for s in scores],
                        "steps": [s.steps for s in scores],
                    },
                )
            )
        return done

    def take_notes(self) -> list[tuple[str, dict[str, object]]]:
        notes, self._notes = self._notes, []
        return notes

    def _walk(self, request_id: int, table: Table) -> Score:
        request = self.tables.texts.requests[request_id]
        place = request.prompt_tokens - 1 - table.start
        return walk(table.accepted, place, request.prompt_tokens + request.output_tokens, table.start)

    def verified(self, request_id: int) -> list[Verified]:
        """The verify steps of a finished request; they are handed over once."""
        self.tables.forget(request_id)
        return self._verified.pop(request_id, [])

    def _decide(self) -> None:
        s = self.state
        k, version = int(s.reg[0]["k_verify"]), int(s.reg[0]["drafter_version"])
        # position p: of the last token that is known before the step
        decoding = [
            (slot, int(row["request_id"]), int(row["prompt"] + row["generated"] - 2))
            for slot, row in self._decoding()
        ]
        tables = self.tables.of([request_id for _, request_id, _ in decoding])
        for (slot, request_id, at), table in zip(decoding, tables, strict=True):
            place = at - table.start
            hits = min(table.accepted[place], k)
            s.accept_in[slot] = hits
            self._verified.setdefault(request_id, []).append(Verified(place, k, hits, table, version))
