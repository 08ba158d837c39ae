"""One arm's run in the simulator: SimPy owns the events, the compiled engine the steps between them.

Processes: arrivals, the engine with its control ticks, the trainer, publications, and what the
scenario has in store (verifier updates, faults). The policy meets only `observe.observe`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import simpy

from harness.contract import TRAINED, Event, Observation, Plan, Request, Swap, TrainerState
from harness.decisions import TrainerNews, tick_detail
from harness.observe import TICK_SECONDS, TICK_STEPS, Serving, observe, position_counts
from harness.policy import Policy, PolicyContext, Truth
from harness.service import Service
from harness.sim.engine import Engine, Labels
from harness.sim.source import Source


@dataclass(frozen=True, slots=True)
class SwapConfig:
    transfer: float = 0.5
    """Seconds to bring new weights to the server, while it serves."""
    stall: float = 0.01
    """Seconds in which no step runs while they are put in place."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something the scenario does when this share of its requests has arrived."""

    at_request: int
    kind: str
    """`verifier_update`, `shift`, or a fault: `trainer_dies`, `swap_fails`, `corrupt_candidate`."""
    stall: float = 0.0
    retained: float = 1.0
    kv_invalid: bool = False
    note: str = ""


class Sink(Protocol):
    """Where records go; `harness.runlog.CellWriter` is one."""

    def name(self, labels: Labels) -> None: ...
    def step_rows(self, rows: np.ndarray) -> None: ...
    def request_rows(self, rows: np.ndarray) -> None: ...
    def events(self, events: Sequence[Event]) -> None: ...


class World:
    """Everything of one (arm, seed) cell. Build it, `run()` it once."""

    def __init__(
        self,
        *,
        engine: Engine,
        policy: Policy,
        context: PolicyContext,
        requests: Iterable[Request],
        happenings: Sequence[Happening],
        source: Source,
        swap: SwapConfig,
        sink: Sink,
    ) -> None:
        self.env = simpy.Environment()
        self.engine = engine
        self.policy = policy
        self.source = source
        self.sink = sink
        sink.name(engine.labels)
        self._swap = swap
        self._happenings = sorted(happenings, key=lambda h: h.at_request)
        self._events: list[Event] = []
        self._pending: list[Callable[[], None]] = []
        self._fail_next_swap = False
        self._quarantined = 0
        self._news = TrainerNews()
        self._wake = self.env.event()
        self._arriving = True
        self._verifier_version = 0
        self._service = Service(source.start)
        self.trainer = (
            source.trainer(self.env, self._service, self._trainer_busy) if policy.uses_drafter else None
        )
        if policy.needs_truth:
            policy.bind_truth(self._truth)
        self._plan = policy.reset(context)
        self.engine.set_schedule(self._plan.k_by_batch)
        self._put_weights()
        if self.trainer:
            self.trainer.follow(self._plan.train)
        self._tick_steps: list[np.ndarray] = []
        self._tick_done: list[np.ndarray] = []
        self._last_tick = 0.0
        self.env.process(self._arrive(requests))
        self._server = self.env.process(self._serve())

    def run(self) -> None:
        """Simulate until every request has ended, and hand the last records to the sink."""
        self.env.run(until=self._server)
        self._collect()
        if self._tick_steps or self._tick_done:
            self._tick()
        if self.engine.rejected:
            self.sink.request_rows(self.engine.rejected_rows(self.engine.rejected))
        if self.trainer:
            self._note("trainer", busy_seconds=self.trainer.busy_seconds, dropped=self.trainer.state.dropped)
        self.sink.events(self._events)

    # --- processes ---

    def _arrive(self, requests: Iterable[Request]) -> Generator[simpy.Event, object, None]:
        env, engine = self.env, self.engine
        for index, request in enumerate(requests):
            # twice where the sum is rounded down: an idle engine would not see it, and time would stand still
            while request.arrival > env.now:
                yield env.timeout(request.arrival - env.now)
            while self._happenings and self._happenings[0].at_request <= index:
                self._happen(self._happenings.pop(0))
            engine.submit(request)
            self._rouse()
        self._arriving = False
        self._rouse()

    def _serve(self) -> Generator[simpy.Event, object, None]:
        env, engine = self.env, self.engine
        steps = 0
        while True:
            self._do_pending()
            deadline = self._last_tick + TICK_SECONDS
            ran = engine.advance(min(env.peek(), deadline), TICK_STEPS - steps)
            steps += ran
            if engine.clock > env.now:
                yield env.timeout(engine.clock - env.now)
            elif ran == 0 and engine.idle:
                if not self._arriving:
                    return
                self._wake = env.event()
                yield self._wake | env.timeout(max(0.0, deadline - env.now))
                engine.wait_until(env.now)
            else:
                yield env.timeout(0)
            if steps >= TICK_STEPS or env.now >= deadline:
                self._tick()
                steps = 0

    def _publish(self, weights: Any) -> Generator[simpy.Event, object, None]:
        """Bring the candidate to the server, then ask the engine to put it in between two steps."""
        assert self.trainer is not None
        self._note("publish", samples=self.trainer.state.candidate_samples)
        self.trainer.published()
        yield self.env.timeout(self._swap.transfer)
        self._pending.append(lambda: self._finish_publish(weights))
        self._rouse()

    # --- between two steps ---

    def _do_pending(self) -> None:
        while self._pending:
            self._pending.pop(0)()

    def _finish_publish(self, weights: Any) -> None:
        service = self._service
        service.swapping = False
        if self._fail_next_swap:
            self._fail_next_swap = False
            service.last_swap = Swap(self.engine.clock, service.newest + 1, self._swap.stall, ok=False)
            self._note("swap", version=service.newest + 1, ok=False, stall=self._swap.stall)
            self._stall(self._swap.stall)
            return
        service.add(weights)
        if self._plan.drafter == TRAINED:
            self._switch(service.newest)

    def _switch(self, version: int) -> None:
        service = self._service
        service.version = version
        service.since = self.engine.clock
        service.last_swap = Swap(self.engine.clock, version, self._swap.stall)
        self._put_weights()
        self._note("swap", version=version, drafter=service.name, ok=True, stall=self._swap.stall)
        self._stall(self._swap.stall)

    def _put_weights(self) -> None:
        self.source.serve(self.engine, self._service.weights, self._service.version)

    def _stall(self, seconds: float) -> None:
        self.engine.wait_until(self.engine.clock + seconds)

    def _update_verifier(self, h: Happening) -> None:
        self._verifier_version += 1
        self.source.update_verifier(h.retained)
        self.engine.set_verifier(self._verifier_version, h.kv_invalid)
        self._put_weights()
        self._note("verifier_update", version=self._verifier_version, stall=h.stall, kv_invalid=h.kv_invalid)
        self._stall(h.stall)

    # --- control ---

    def _tick(self) -> None:
        observation = self._observe()
        plan = self.policy.decide(observation)
        self._note("tick", **tick_detail(observation, plan))
        self._follow(plan)
        if len(self._events) > 512:
            self.sink.events(self._events)
            self._events = []

    def _observe(self) -> Observation:
        self._collect()
        engine, service = self.engine, self._service
        steps = _joined(self._tick_steps) if self._tick_steps else engine.take_steps()
        done = _joined(self._tick_done) if self._tick_done else engine.take_done()
        self._tick_steps, self._tick_done = [], []
        self._last_tick = self.env.now
        self._note_refusals()
        if self.trainer and len(done):
            self.trainer.offer(self.trainer.sampled(done))
        trainer = self._trainer_state()
        if news := self._news.of(trainer):
            self._note("trainer_state", **news)
        return observe(
            engine.gauges(self.env.now),
            steps,
            position_counts(*engine.take_positions(), engine.labels.domains, engine.labels.tenants),
            done["slo_met"],
            Serving(service.name, service.version, service.since, self._verifier_version, service.last_swap),
            trainer,
        )

    def _trainer_state(self) -> TrainerState:
        return self.trainer.state if self.trainer else TrainerState()

    def _collect(self) -> None:
        """Move records from the engine's buffers to the sink and to this tick's heap."""
        steps, done = self.engine.take_steps(), self.engine.take_done()
        if len(steps):
            self._tick_steps.append(steps)
            self.sink.step_rows(steps)
        if len(done):
            self._tick_done.append(done)
            self.sink.request_rows(done)
        for kind, detail in self.engine.take_notes():
            self._note(kind, **detail)

    def _follow(self, plan: Plan) -> None:
        service = self._service
        if plan.k_by_batch != self._plan.k_by_batch:
            self.engine.set_schedule(plan.k_by_batch)
        self._plan = plan
        if self.trainer:
            self.trainer.follow(plan.train)
            if plan.publish and not service.swapping and self.trainer.candidate is not None:
                service.swapping = True
                self.env.process(self._publish(self.trainer.candidate))
        version = service.meant_by(plan.drafter)
        arriving = service.swapping and plan.drafter == TRAINED  # what is on its way will serve, not what was
        if version != service.version and not arriving:
            self._switch(version)

    # --- what the scenario has in store ---

    def _happen(self, h: Happening) -> None:
        if h.kind == "verifier_update":
            self._pending.append(lambda: self._update_verifier(h))
        elif h.kind == "shift":
            self._note("shift", to=h.note)
        else:
            self._note("fault", fault=h.kind)
            self._fault(h.kind)

    def _fault(self, kind: str) -> None:
        if kind == "swap_fails":
            self._fail_next_swap = True
        elif self.trainer and kind == "trainer_dies":
            self.trainer.die()
        elif self.trainer and kind == "corrupt_candidate":
            self.trainer.corrupt_next()

    # --- small things ---

    def _truth(self) -> Truth:
        candidate = self.trainer.candidate if self.trainer else None
        return self.source.truth(self.engine, self._service, candidate, self._verifier_version)

    def _note_refusals(self) -> None:
        if self.trainer and self.trainer.state.quarantined > self._quarantined:
            self._quarantined = self.trainer.state.quarantined
            self._note("quarantine", reason=self.trainer.refusal)

    def _trainer_busy(self, busy: bool) -> None:
        assert self.trainer is not None
        self.engine.set_slowdown(self.trainer.config.slowdown if busy else 1.0)

    def _rouse(self) -> None:
        if not self._wake.triggered:
            self._wake.succeed()

    def _note(self, kind: str, **detail: object) -> None:
        self._events.append(Event(max(self.env.now, self.engine.clock), kind, detail))


def _joined(batches: list[np.ndarray]) -> np.ndarray:
    """One array of all rows; the usual single batch is passed on as it is."""
    return batches[0] if len(batches) == 1 else np.concatenate(batches)
