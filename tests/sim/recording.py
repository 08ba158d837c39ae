"""A simulated run that records its verify steps, as a live one does: the truth that a replay is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from harness.compare import summarise
from harness.policy import PolicyContext
from harness.runlog import CellWriter, RunWriter
from harness.sim import parametric
from harness.sim.acceptance import accepted_drafts
from harness.sim.build import build_world
from harness.sim.external import ExternalEngine
from harness.sim.job import prepare
from harness.sim.recorder import Recorder
from harness.sim.simulate import _info
from workloads.scenario import Scenario

CONTEXT = [f.name for f in fields(PolicyContext) if f.name not in ("predict", "slo", "seed")]


class RecordingEngine(ExternalEngine):
    """The parametric engine with the same draws, which notes every verify step."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.rows: list[tuple[int, int, int, int, int]] = []

    def _decide(self) -> None:
        s, r = self.state, self.state.reg[0]
        k, version = int(r["k_verify"]), int(r["drafter_version"])
        for slot, row in self._decoding():
            number, at = int(row["request_id"]), int(row["generated"])
            key, domain, latent = r["acceptance_key"], int(row["domain"]), float(row["latent"])
            hits = accepted_drafts(key, number, at, k, s.logits, domain, latent)
            s.accept_in[slot] = hits
            self.rows.append((number, at, k, hits, version))

    def columns(self) -> dict[str, np.ndarray]:
        rows = np.array(self.rows, np.int64).reshape(-1, 5)
        names = ("request_id", "at", "k", "accepted", "drafter_version")
        return {name: rows[:, i] for i, name in enumerate(names)}


def record_run(
    out: Path, scenario: Scenario, arms: Sequence[str], seeds: Sequence[int] = (0,), told: bool = True
) -> Path:
    """Simulate and record; with `told`, each arm's settings keep the context that its policy was given."""
    job = prepare(scenario, policies=arms, seeds=seeds, workers=1)
    contexts: list[Any] = []

    def context_of(*given: Any) -> Any:
        contexts.append(original(*given))
        return contexts[-1]

    original = parametric.context_of
    with (
        RunWriter(out, _info(job)) as run,
        patch.object(parametric, "Engine", RecordingEngine),
        patch.object(parametric, "context_of", context_of),
    ):
        for cell in job.cells():
            with CellWriter(run.parts, cell.policy, cell.seed) as writer:
                recorder = Recorder(writer)
                world = build_world(cell, recorder)
                if told:
                    context = {name: getattr(contexts[-1], name) for name in CONTEXT}
                    run.info["arms"][cell.policy]["context"] = context
                world.run()
                recorder.close()
                writer.verifies(world.engine.columns())
        run.merge()
        summarise(run.path)
    return out
