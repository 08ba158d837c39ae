"""What the server's scheduler writes, gathered for the controller: steps, verify outcomes, ends of requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.contract import PositionCounts, Slo, StepRecord
from harness.live.link import BEGIN, END, STEP, STEP_ROW, VERIFIED, VERIFY_ROW
from harness.observe import Gauges

RECORD_FIELDS = StepRecord.__dataclass_fields__.keys()


@dataclass(slots=True)
class Live:
    """A request on the server."""

    request_id: int
    domain: str
    tenant: str
    arrival: float
    end: Mapping[str, Any] = field(default_factory=dict)
    """The scheduler's last word: times, counts, `ok`."""


@dataclass(slots=True)
class Tick:
    """What has gathered since the last control tick."""

    steps: list[np.ndarray] = field(default_factory=list)
    verified: list[np.ndarray] = field(default_factory=list)
    offered: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    accepted: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    ended: list[Live] = field(default_factory=list)
    met: list[bool] = field(default_factory=list)

    @property
    def rows(self) -> np.ndarray:
        """STEP_ROW[n], times of the monotonic clock."""
        return np.concatenate(self.steps) if self.steps else np.zeros(0, STEP_ROW)

    def positions(self) -> dict[tuple[str, str], PositionCounts]:
        """Offered and accepted by draft position, per (domain, tenant)."""
        return {
            group: PositionCounts(tuple(offered.tolist()), tuple(self.accepted[group].tolist()))
            for group, offered in self.offered.items()
        }


class Feed:
    """Reads records in order; `take` hands over the tick and begins the next."""

    def __init__(self, slo: Mapping[str, Slo]) -> None:
        self._slo = slo
        self._requests: dict[int, Live] = {}
        self._last = np.zeros(1, STEP_ROW)
        self._tick = Tick()
        self.steps = 0
        """Engine steps since the last `take`."""

    def read(self, records: Iterable[tuple[int, bytes]]) -> None:
        for kind, content in records:
            if kind == STEP:
                self._last = np.frombuffer(content, STEP_ROW).copy()
                self._tick.steps.append(self._last)
                self.steps += 1
            elif kind == VERIFIED:
                self._verified(np.frombuffer(content, VERIFY_ROW))
            elif kind == BEGIN:
                self._begin(json.loads(content))
            elif kind == END:
                self._end(json.loads(content))

    def take(self) -> Tick:
        tick, self._tick, self.steps = self._tick, Tick(), 0
        return tick

    def request_of(self, number: int) -> int:
        """The client's id of a request that is on the server or ended in this tick; -1 for another's."""
        found = self._requests.get(number)
        return found.request_id if found is not None else -1

    def forget(self, tick: Tick) -> None:
        """Requests of a tick that is dealt with."""
        for live in tick.ended:
            self._requests.pop(int(live.end["number"]), None)

    def gauges(self, time: float) -> Gauges:
        """The server's state after its last step; an idle one holds nothing."""
        row = self._last[0]
        batch = int(row["batch"])
        running = int(row["running"])
        return Gauges(
            time=time,
            running=running,
            waiting=int(row["waiting"]),
            kv_use=float(row["kv_blocks"]) / max(1, int(row["kv_total"])) if running else 0.0,
            mean_context=float(row["context_tokens"]) / batch if batch else 0.0,
        )

    def _verified(self, rows: np.ndarray) -> None:
        self._tick.verified.append(rows.copy())
        for number, _, k, accepted, _ in rows.tolist():
            live = self._requests.get(number)
            if live is None:
                continue
            group = live.domain, live.tenant
            if group not in self._tick.offered or len(self._tick.offered[group]) < k:
                self._grow(group, k)
            self._tick.offered[group][: min(accepted + 1, k)] += 1
            self._tick.accepted[group][: min(accepted, k)] += 1

    def _grow(self, group: tuple[str, str], k: int) -> None:
        for counts in (self._tick.offered, self._tick.accepted):
            old = counts.get(group, np.zeros(0, np.int64))
            counts[group] = np.pad(old, (0, k - len(old)))

    def _begin(self, said: Mapping[str, Any]) -> None:
        self._requests[said["number"]] = Live(
            said["request_id"], said["domain"], said["tenant"], said["arrival"]
        )

    def _end(self, said: Mapping[str, Any]) -> None:
        live = self._requests.get(said["number"])
        if live is None:
            return
        live.end = said
        self._tick.ended.append(live)
        if said["ok"] and said["first_token"] is not None:
            ttft = said["first_token"] - live.arrival
            tpot = (said["finish"] - said["first_token"]) / max(said["output_tokens"] - 1, 1)
            self._tick.met.append(self._slo.get(live.tenant, Slo()).met(ttft, tpot))
