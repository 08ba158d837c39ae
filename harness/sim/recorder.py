"""From the engine's rows to the run log's columns; small batches are gathered so that writing stays cheap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.contract import Event
from harness.runlog import CellWriter
from harness.sim.engine import Labels
from harness.sim.state import STATUS_NAMES, STEP

BATCH_ROWS = 8192
_EVENTS = 512


class Recorder:
    """A `world.Sink` on a `CellWriter`; `close` writes what is still held."""

    def __init__(self, writer: CellWriter) -> None:
        self._writer = writer
        self._domains = self._tenants = np.array(["unknown"])
        self._steps: list[np.ndarray] = []
        self._requests: list[np.ndarray] = []
        self._held = 0

    def name(self, labels: Labels) -> None:
        """The names behind the numbers of domains and tenants."""
        self._domains = np.array(labels.domains)
        self._tenants = np.array(labels.tenants)

    def step_rows(self, rows: np.ndarray) -> None:
        self._hold(self._steps, rows)

    def request_rows(self, rows: np.ndarray) -> None:
        self._hold(self._requests, rows)

    def events(self, events: Sequence[Event]) -> None:
        self._writer.events(events)

    def close(self) -> None:
        if self._steps:
            rows = np.concatenate(self._steps, dtype=STEP)
            self._writer.steps({name: rows[name] for name in STEP.names or ()})
        if self._requests:
            self._writer.requests(
                self._request_columns(np.concatenate(self._requests, dtype=self._requests[0].dtype))
            )
        self._steps, self._requests, self._held = [], [], 0

    def _hold(self, batch: list[np.ndarray], rows: np.ndarray) -> None:
        batch.append(rows)
        self._held += len(rows)
        if self._held >= BATCH_ROWS:
            self.close()

    def _request_columns(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "request_id": rows["request_id"],
            "domain": self._domains[rows["domain"]],
            "tenant": self._tenants[rows["tenant"]],
            "arrival": rows["arrival"],
            "scheduled": rows["scheduled"],
            "first_token": rows["first_token"],
            "finish": rows["finish"],
            "prompt_tokens": rows["prompt"],
            "output_tokens": rows["generated"],
            "cached_tokens": rows["cached"],
            "preemptions": rows["preemptions"],
            "verify_steps": rows["verify_steps"],
            "draft_tokens": rows["drafts"],
            "accepted_tokens": rows["accepted"],
            "slo_met": rows["slo_met"],
            "status": np.array(STATUS_NAMES)[rows["status"]],
        }
