"""One replayed arm: its policy chooses K, everything else happens when the record says it did."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import simpy

from harness.contract import Event, Plan, Swap, TrainerState
from harness.sim.replay.outcomes import Outcomes
from harness.sim.world import Happening, SwapConfig, World

NOTED = ("shift", "fault", "publish", "quarantine")
"""Recorded events that are only logged again: what they did is in the swaps and verify steps."""

ROUNDING = 1e-6
"""Seconds by which a recorded time may lie behind the moment of the replay that it belongs to."""


class ReplayWorld(World):
    """`events` of the record, in order of time, happen between two steps at their recorded times. `slowdowns`: from
    when on steps take how many times as long, because the recorded trainer worked. `trainer_states`: what that
    trainer said, and from when on; a policy sees it at its own ticks, which lie elsewhere than those of the record."""

    def __init__(
        self,
        *,
        events: Sequence[Event],
        outcomes: Outcomes,
        slowdowns: Sequence[tuple[float, float]] = (),
        trainer_states: Sequence[tuple[float, TrainerState]] = (),
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self._said = trainer_states
        self._candidate: int | None = None
        self._as_of: float | None = None
        """Moment of the record that a tick belongs to, where it is not now."""
        self._recorded = events
        self._outcomes = outcomes
        self.env.process(self._happen_again())
        self.env.process(self._slow_down(slowdowns))

    def run(self) -> None:
        """As the base; the log ends with what training cost then and how much of the replay was known."""
        super().run()
        end = max(self.env.now, self.engine.clock)
        o = self._outcomes
        told = [Event(end, e.kind, e.detail) for e in self._recorded if e.kind == "trainer"][-1:]
        told.append(Event(end, "replay", {"exact": o.exact, "censored": o.censored, "absent": o.absent}))
        self.sink.events(told)

    def _happen_again(self) -> Generator[simpy.Event, object, None]:
        for event in self._recorded:
            if event.time > self.env.now:
                yield self.env.timeout(event.time - self.env.now)
            if event.kind in NOTED:
                self._note(event.kind, **event.detail)
                if event.kind == "publish":
                    self._pending.append(partial(self._introduce, event.time))
                    self._rouse()
            elif event.kind in ("swap", "verifier_update"):
                self._pending.append(partial(self._repeat, event))
                self._rouse()

    def _slow_down(self, slowdowns: Sequence[tuple[float, float]]) -> Generator[simpy.Event, object, None]:
        for time, factor in slowdowns:
            if time > self.env.now:
                yield self.env.timeout(time - self.env.now)
            self.engine.set_slowdown(factor)

    def _introduce(self, time: float) -> None:
        """A tick before the recorded swap, for a policy that has not met its candidate: it is gone at the next one."""
        if self._said_at(time).candidate not in (None, self._candidate):
            self._as_of = time
            self._tick()
            self._as_of = None

    def _trainer_state(self) -> TrainerState:
        state = self._said_at(self.env.now if self._as_of is None else self._as_of)
        self._candidate = state.candidate
        return state

    def _said_at(self, time: float) -> TrainerState:
        before = bisect(self._said, time + ROUNDING, key=lambda said: said[0])
        return self._said[before - 1][1] if before else TrainerState()

    def _repeat(self, event: Event) -> None:
        stall = float(event.detail.get("stall") or 0.0)
        if event.kind == "verifier_update":
            kv_invalid = bool(event.detail.get("kv_invalid", False))
            self._update_verifier(Happening(0, event.kind, stall=stall, kv_invalid=kv_invalid))
            return
        self._swap = SwapConfig(stall=stall)
        service, version = self._service, int(event.detail["version"])
        if not event.detail.get("ok", True):
            service.last_swap = Swap(self.engine.clock, version, stall, ok=False)
            self._note("swap", version=version, ok=False, stall=stall)
            self._stall(stall)
            return
        if version:
            service.published[version] = version
            service.newest = max(service.newest, version)
        self._switch(version)

    def _follow(self, plan: Plan) -> None:
        """K only: which drafter serves, and since when, is as recorded."""
        if plan.k_by_batch != self._plan.k_by_batch:
            self.engine.set_schedule(plan.k_by_batch)
        self._plan = plan
