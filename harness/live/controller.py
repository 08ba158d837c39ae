"""The control loop around a live server: at every tick what the server measured about itself becomes an
`Observation`, the policy answers with a `Plan`, and the plan is put into force. The simulator's world does the same.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harness.contract import TRAINED, Event, Observation, Plan, Slo, Swap, TrainerState
from harness.decisions import TrainerNews, tick_detail
from harness.live.feed import Feed, Tick
from harness.live.link import Link
from harness.live.server import Worker
from harness.live.trainer import TrainerProcess
from harness.observe import TICK_SECONDS, TICK_STEPS, Serving, observe
from harness.policy import Policy, PolicyContext
from harness.service import Service

POLL_SECONDS = 0.02


class Sink(Protocol):
    """Where records go. Times are seconds since the run began."""

    def tick(self, tick: Tick, feed: Feed, began: float) -> None: ...
    def events(self, events: Sequence[Event]) -> None: ...


@dataclass(frozen=True, slots=True)
class Weights:
    """A drafter as a file, behind a version of `Service`."""

    path: Path


class Controller:
    """One run of one policy on one server. `run` until `stop` is set."""

    def __init__(
        self,
        *,
        link: Link,
        policy: Policy,
        context: PolicyContext,
        static: Path | None,
        trainer: TrainerProcess | None,
        slo: Mapping[str, Slo],
        sink: Sink,
    ) -> None:
        self.link = link
        self.policy = policy
        self.trainer = trainer
        self.sink = sink
        self.began = time.monotonic()
        self.feed = Feed(slo)
        self._worker = Worker(link)
        self._events: list[Event] = []
        self._service = Service(Weights(static) if static is not None else None)
        self._tasks: set[asyncio.Task[None]] = set()
        self.verifier_version = 0
        self.verifier_changes: list[tuple[float, float]] = []
        """(asked, done) of each change of the target's weights, seconds since the run began: somewhere between them."""
        self.fail_next_swap = False
        """Fault injection: the file of the next swap arrives cut off."""
        self._quarantined = 0
        self._alive = True
        self._news = TrainerNews()
        self._dropped = {ring: ring.dropped for ring in (link.steps, link.traces)}
        self._published: Path | None = None
        """The candidate published last; the trainer goes on reporting it until it has heard of that."""
        self._last_tick = 0.0
        self._swap_lock = asyncio.Lock()
        self._plan = policy.reset(context)
        self._put_schedule()

    def begin(self, lead: float = 0.0) -> float:
        """The run begins in `lead` seconds; its time on the monotonic clock. The plan is in force already."""
        self.began = time.monotonic() + lead
        self._last_tick = 0.0
        return self.began

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    async def run(self, stop: asyncio.Event) -> None:
        """Poll, and tick every 32 steps or second, whichever is first."""
        self._tell_trainer()
        while not stop.is_set():
            self._poll()
            if self.feed.steps >= TICK_STEPS or self.now - self._last_tick >= TICK_SECONDS:
                self._tick()
            await asyncio.sleep(POLL_SECONDS)
        await self.settle()

    async def settle(self) -> None:
        """Wait for swaps under way, take in the last records."""
        while self._tasks:
            await asyncio.gather(*self._tasks)
        self._poll()
        in_force = replace(self._plan, publish=False, propensity=1.0)  # nothing is decided any more
        self.note("tick", **tick_detail(self._take_in(), in_force))
        if self.trainer is not None:
            report = self.trainer.poll()
            self.note(
                "trainer",
                busy_seconds=report.busy_seconds,
                dropped=report.state.dropped,
                incomplete=report.incomplete,
                tokens=report.tokens,
                peak_buffer_bytes=report.peak_buffer_bytes,
            )
        self._hand_over()

    # --- what happens to it ---

    async def update_verifier(self, folder: Path, kv_invalid: bool) -> None:
        """Swap the target's weights; the learner is told, and what it traced under the old ones is void."""
        version, asked = self.verifier_version + 1, self.now
        async with self._swap_lock:
            answer = await asyncio.to_thread(self._worker.swap, folder, version, "verifier", kv_invalid)
        if not answer["ok"]:
            self.note("fault", fault="verifier_update", reason=answer["error"])
            return
        self.verifier_version = version
        self.verifier_changes.append((asked, self.now))
        if self.trainer is not None:
            self.trainer.tell("verifier", version, folder)
        self.note(
            "verifier_update",
            version=version,
            stall=answer["stall"],
            kv_invalid=kv_invalid,
            fingerprint=answer["fingerprint"],
        )

    def note(self, kind: str, at: float | None = None, **detail: Any) -> None:
        """An event of now, or of the moment `at`."""
        self._events.append(Event(self.now if at is None else at, kind, detail))

    def _hand_over(self) -> None:
        self.sink.events(self._events)
        self._events = []

    # --- one tick ---

    def _poll(self) -> None:
        self.feed.read(self.link.steps.take())
        for ring, before in self._dropped.items():
            if ring.dropped > before:
                self.note("dropped", records=ring.dropped - before, ring=ring.path.stem)
                self._dropped[ring] = ring.dropped
        if self.trainer is None:
            return
        report = self.trainer.poll()
        if worked := self.trainer.take_worked():
            self.note("trained", spans=[[round(t - self.began, 4) for t in span] for span in worked])
        if self._alive and not report.state.alive:
            self._alive = False
            self.note("fault", fault="trainer_died", note="serving goes on with the weights in service")
        if report.state.quarantined > self._quarantined:
            self._quarantined = report.state.quarantined
            self.note("quarantine", reason=report.refusal)
        if news := self._news.of(self._trainer_state()):
            self.note("trainer_state", **news)

    def _tick(self) -> None:
        observation = self._take_in()
        self._last_tick = self.now
        plan = self.policy.decide(observation)
        self.note("tick", **tick_detail(observation, plan))
        self._follow(plan)
        self._hand_over()

    def _take_in(self) -> Observation:
        """What came since the last tick, handed to the sink."""
        tick = self.feed.take()
        self.sink.tick(tick, self.feed, self.began)
        observation = self._observe(tick)
        self.feed.forget(tick)
        return observation

    def _observe(self, tick: Tick) -> Observation:
        service = self._service
        return observe(
            self.feed.gauges(self.now),
            tick.rows,
            tick.positions(),
            np.array(tick.met, dtype=bool),
            Serving(service.name, service.version, service.since, self.verifier_version, service.last_swap),
            self._trainer_state(),
        )

    def _trainer_state(self) -> TrainerState:
        if self.trainer is None:
            return TrainerState()
        state = self.trainer.report.state
        if self._candidate() is None:
            return replace(state, candidate=None, candidate_samples=0, heldout_candidate={})
        return state

    def _candidate(self) -> Path | None:
        """The file of a candidate that was not published yet."""
        candidate = self.trainer.report.candidate if self.trainer is not None else None
        return candidate if candidate != self._published else None

    # --- the plan into force ---

    def _follow(self, plan: Plan) -> None:
        changed = plan.k_by_batch != self._plan.k_by_batch
        trains = plan.train != self._plan.train
        self._plan = plan
        if changed:
            self._put_schedule()
        if trains:
            self._tell_trainer()
        service = self._service
        if plan.publish and self.trainer is not None and not service.swapping:
            candidate = self._candidate()
            if candidate is not None:
                self._publish(candidate)
        version = service.meant_by(plan.drafter)
        arriving = service.swapping and plan.drafter == TRAINED
        if version != service.version and not arriving and not service.swapping:
            service.swapping = True
            self._spawn(self._switch(version))

    def _put_schedule(self) -> None:
        self.link.control.write_schedule(self._plan.k_by_batch)

    def _tell_trainer(self) -> None:
        """The plan for the trainer, and what the tap shall take for it."""
        if self.trainer is None:
            self.link.control.set("sample", 0.0)
            return
        self.trainer.tell("plan", self._plan.train)
        learning = self._plan.train.on or self.trainer.report.state.steps > 0
        self.link.control.set("sample", self._plan.train.sample if learning else 0.0)

    def _publish(self, candidate: Path) -> None:
        assert self.trainer is not None
        self._service.swapping = True
        self._published = candidate
        self.note("publish", samples=self.trainer.report.state.candidate_samples)
        self.trainer.tell("published", candidate)
        self._spawn(self._bring(Weights(candidate)))

    async def _bring(self, weights: Weights) -> None:
        """Put fresh weights into service."""
        service = self._service
        version = service.newest + 1
        answer = await self._swap(weights, version)
        if answer["ok"]:
            service.add(weights)
            self._served(version, answer)
        service.swapping = False

    async def _switch(self, version: int) -> None:
        """Return to weights that served before."""
        weights = self._service.published[version] if version else self._service.static
        answer = await self._swap(weights, version)
        if answer["ok"]:
            self._served(version, answer)
        self._service.swapping = False

    async def _swap(self, weights: Weights, version: int) -> dict[str, Any]:
        path = truncated(weights.path) if self.fail_next_swap else weights.path
        self.fail_next_swap = False
        async with self._swap_lock:
            answer = await asyncio.to_thread(self._worker.swap, path, version)
        if not answer["ok"]:
            self._service.last_swap = Swap(self.now, version, 0.0, ok=False)
            self.note("swap", version=version, ok=False, stall=0.0, reason=answer["error"])
        return answer

    def _served(self, version: int, answer: Mapping[str, Any]) -> None:
        service = self._service
        service.version = version
        service.since = self.now
        service.last_swap = Swap(self.now, version, answer["stall"])
        if self.trainer is not None:
            self.trainer.tell("serving", service.weights.path)
        self.note(
            "swap",
            version=version,
            drafter=service.name,
            ok=True,
            stall=answer["stall"],
            prepare=answer["prepare"],
            fingerprint=answer["fingerprint"],
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def truncated(path: Path) -> Path:
    """A copy of a weights file that was cut off on its way, for injected faults."""
    copy = path.with_name(f"cut-{path.name}")
    shutil.copyfile(path, copy)
    with copy.open("r+b") as file:
        file.truncate(copy.stat().st_size // 2)
    return copy
