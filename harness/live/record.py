"""From the feed to the run log: what the server's scheduler and the client saw of one cell, joined by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.contract import Event, Slo, VerifyRecord
from harness.live.feed import RECORD_FIELDS, Feed, Live, Tick
from harness.live.front_end import entry_delay
from harness.live.load import Answer, Ask
from harness.runlog import CellWriter

VERIFY_FIELDS = tuple(VerifyRecord.__dataclass_fields__)


class Recorder:
    """The controller's sink on a `CellWriter`; `close` joins the client's times and writes the requests."""

    def __init__(self, writer: CellWriter) -> None:
        self._writer = writer
        self._served: dict[int, Live] = {}
        self._steps: list[np.ndarray] = []

    def tick(self, tick: Tick, feed: Feed, began: float) -> None:
        rows = tick.rows
        if len(rows):
            columns = {name: rows[name] for name in RECORD_FIELDS}
            columns["start"] = rows["start"] - began
            self._writer.steps(columns)
            self._steps.append(rows[["start", "seconds", "waiting"]])
        for live in tick.ended:
            if live.request_id >= 0:
                self._served[live.request_id] = live
        if tick.verified:
            verified = np.concatenate(tick.verified)
            ids = np.array([feed.request_of(n) for n in verified["number"].tolist()], np.int64)
            ours = ids >= 0
            columns = {
                "request_id": ids[ours],
                **{name: verified[name][ours] for name in ("at", "k", "accepted")},
                "drafter_version": verified["version"][ours],
            }
            self._writer.verifies({name: columns[name] for name in VERIFY_FIELDS})

    def events(self, events: Sequence[Event]) -> None:
        self._writer.events(events)

    def close(
        self, asks: Sequence[Ask], answers: Sequence[Answer], slo: Mapping[str, Slo], began: float
    ) -> None:
        """Write the requests, and what lies between client and the engine's queue as an event `front_end`."""
        rows = [self._row(ask, answer, slo, began) for ask, answer in zip(asks, answers, strict=True)]
        self._writer.requests({name: [row[name] for row in rows] for name in rows[0]})
        between = [s for answer in answers if (s := self._front_end(answer, began)) is not None]
        if between:
            entry = self._entry()
            told = {"seconds": float(np.median(between)) + entry, "entry": entry}
            self._writer.events([Event(answers[-1].finish, "front_end", told)])

    def _entry(self) -> float:
        """Mean seconds from the API server's stamp to the engine's queue."""
        told = [(live.arrival, live.end["scheduled"]) for live in self._served.values()]
        times = np.array(told, np.float64).reshape(-1, 2)  # None becomes NaN
        return entry_delay(times[:, 0], times[:, 1], np.concatenate(self._steps)) if self._steps else 0.0

    def _front_end(self, answer: Answer, began: float) -> float | None:
        """Seconds that an answer's first token spent between client and the API server's stamp, there and back."""
        live = self._served.get(answer.request_id)
        if live is None or answer.status != "finished" or live.end.get("first_token") is None:
            return None
        inside = float(live.end["first_token"]) - live.arrival
        return answer.first_token - answer.sent - inside

    def _row(self, ask: Ask, answer: Answer, slo: Mapping[str, Slo], began: float) -> dict[str, Any]:
        """The client's times, from the intended arrival on; what only the server knows from its record."""
        request = ask.request
        live = self._served.get(request.request_id)
        end: Mapping[str, Any] = live.end if live is not None else {}
        scheduled = end.get("scheduled")
        tpot = (answer.finish - answer.first_token) / max(answer.output_tokens - 1, 1)
        met = slo.get(request.tenant, Slo()).met(answer.first_token - request.arrival, tpot)
        return {
            "request_id": request.request_id,
            "domain": request.domain,
            "tenant": request.tenant,
            "arrival": request.arrival,
            "scheduled": scheduled - began if scheduled is not None else float("nan"),
            "first_token": answer.first_token,
            "finish": answer.finish,
            "prompt_tokens": len(ask.prompt),
            "output_tokens": answer.output_tokens,
            "cached_tokens": int(end.get("cached_tokens", 0)),
            "preemptions": int(end.get("preemptions", 0)),
            "verify_steps": int(end.get("verify_steps", 0)),
            "draft_tokens": int(end.get("draft_tokens", 0)),
            "accepted_tokens": int(end.get("accepted_tokens", 0)),
            "slo_met": answer.status == "finished" and met,
            "status": answer.status,
        }
