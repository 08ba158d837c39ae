"""The simulated engine with acceptance decided by a real drafter: same scheduler, same accounting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.latency.compiled import step_seconds
from harness.latency.model import LatencyModel
from harness.sim.engine import Engine, EngineConfig, Labels
from harness.sim.kernel import commit_step, has_room, plan_step
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


class ModelEngine(Engine):
    """Steps one at a time in Python, because each asks `tables` what was drafted."""

    def __init__(
        self, config: EngineConfig, labels: Labels, latency: LatencyModel, seed: int, tables: Tables
    ) -> None:
        super().__init__(config, labels, latency, seed)
        self.tables = tables
        self.state.reg["external"] = 1
        self._verified: dict[int, list[Verified]] = {}
        self._notes: list[tuple[str, dict[str, object]]] = []

    def advance(self, horizon: float, max_steps: int) -> int:
        s, ran = self.state, 0
        while ran < max_steps and self.clock < horizon and has_room(s) and plan_step(s):
            if s.reg[0]["k_verify"] > 0:
                self._decide()
            commit_step(s, step_seconds(self.latency.compiled, s.x) * s.reg[0]["slowdown"])
            ran += 1
            s = self.state
        return ran

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
        """Write into `accept_in` how many drafts of each decoding request hold."""
        s = self.state
        k, version = int(s.reg[0]["k_verify"]), int(s.reg[0]["drafter_version"])
        decoding = list(self._decoding())
        tables = self.tables.of([request_id for _, request_id, _ in decoding])
        for (slot, request_id, at), table in zip(decoding, tables, strict=True):
            place = at - table.start
            hits = min(table.accepted[place], k)
            s.accept_in[slot] = hits
            self._verified.setdefault(request_id, []).append(Verified(place, k, hits, table, version))

    def _decoding(self) -> Iterator[tuple[int, int, int]]:
        """(slot, request, position p) of each sequence that decodes in the planned step."""
        s = self.state
        for slot in s.running[: s.reg[0]["running"]].tolist():
            row = s.slots[slot]
            if row["rows"] > 0 and row["computed"] >= row["target"]:
                yield slot, int(row["request_id"]), int(row["prompt"] + row["generated"] - 2)
