"""A controller with everything around it made up: worker, trainer, policy and sink."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from test_feed import step

from harness.contract import (
    Event,
    Observation,
    Plan,
    TrainerState,
    TrainPlan,
    constant_k,
)
from harness.live.controller import Controller
from harness.live.link import Link
from harness.live.report import Report
from harness.observe import TICK_STEPS
from harness.policy import PolicyContext

CONTEXT = PolicyContext(max_k=5, max_batch=64, predict=lambda _: 0.01, offline_hazards=(0.5,))
K3 = Plan(constant_k(3))
ON = TrainPlan(on=True)


class FakeWorker:
    """Swaps as told: `fails` with this error, `open` closed holds answers back."""

    def __init__(self, link: Link) -> None:
        self.swaps: list[tuple[Any, ...]] = []
        self.fails = ""
        self.open = threading.Event()
        self.open.set()

    def swap(
        self, path: Path, version: int, what: str = "drafter", kv_invalid: bool = False
    ) -> dict[str, Any]:
        self.swaps.append((what, path, version, kv_invalid))
        self.open.wait(10.0)
        if self.fails:
            return {"ok": False, "error": self.fails}
        return {"ok": True, "version": version, "stall": 0.25, "prepare": 0.5, "fingerprint": f"f{version}"}


class FakeTrainer:
    def __init__(self) -> None:
        self.report = Report(TrainerState(alive=True), None, "", 0.0, 0, 0, 0, 0)
        self.told: list[tuple[Any, ...]] = []
        self.worked: list[tuple[float, float]] = []

    def poll(self) -> Report:
        return self.report

    def take_worked(self) -> list[tuple[float, float]]:
        worked, self.worked = self.worked, []
        return worked

    def tell(self, *command: Any) -> None:
        self.told.append(command)

    def offer(self, path: Path, **state: Any) -> None:
        state = {"candidate": 10, "candidate_samples": 80, "steps": 10, **state}
        self.report = replace(self.report, state=replace(self.report.state, **state), candidate=path)

    def becomes(self, refusal: str = "", **state: Any) -> None:
        self.report = replace(self.report, refusal=refusal, state=replace(self.report.state, **state))


class Script:
    """A policy that answers with these plans, the last one for ever."""

    def __init__(self, *plans: Plan) -> None:
        self.plans = list(plans)
        self.seen: list[Observation] = []

    def reset(self, context: PolicyContext) -> Plan:
        assert context is CONTEXT
        return self._next()

    def decide(self, observation: Observation) -> Plan:
        self.seen.append(observation)
        return self._next()

    def _next(self) -> Plan:
        return self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]


class Sink:
    def __init__(self) -> None:
        self.all: list[Event] = []
        self.rows = 0
        self.requests: list[int] = []

    def tick(self, tick, feed, began: float) -> None:
        self.rows += len(tick.rows)
        self.requests += [feed.request_of(n) for rows in tick.verified for n in rows["number"].tolist()]

    def events(self, events) -> None:
        self.all += events

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [dict(e.detail) for e in self.all if e.kind == kind]


class Bench:
    def __init__(self, link: Link, folder: Path, *plans: Plan, trainer: bool = True, slo=None) -> None:
        self.link, self.folder, self.sink = link, folder, Sink()
        self.static = folder / "static"
        self.static.write_bytes(bytes(64))
        self.policy = Script(*plans)
        self.trainer = FakeTrainer() if trainer else None
        self.controller = Controller(
            link=link, policy=self.policy, context=CONTEXT, static=self.static, trainer=self.trainer,
            slo=slo or {}, sink=self.sink,
        )  # fmt: skip
        self.worker: FakeWorker = self.controller._worker

    def offered(self, name: str) -> Path:
        path = self.folder / name
        path.write_bytes(bytes(100))
        self.trainer.offer(path)
        return path

    def ticks(self, n: int = 1) -> None:
        """Write as many steps as a tick takes, `n` times."""
        for _ in range(n * TICK_STEPS):
            self.link.steps.put(*step(batch=1, output_tokens=1))

    def run(self, *moments: Callable[[], Any]) -> None:
        """The loop, with each of these done when the tick before it is over and nothing is on its way."""

        async def all_of_it() -> None:
            stop = asyncio.Event()
            self.controller.begin()
            loop = asyncio.create_task(self.controller.run(stop))
            for moment in moments:
                answer = moment()
                if asyncio.iscoroutine(answer):
                    await answer
                await self._quiet(loop)
            stop.set()
            await loop

        asyncio.run(all_of_it())

    async def _quiet(self, loop: asyncio.Task[None]) -> None:
        ticks, end_ = len(self.policy.seen), time.monotonic() + 10.0
        while time.monotonic() < end_:
            await asyncio.sleep(0.005)
            if loop.done():
                loop.result()
            pending = self.controller.feed.steps >= TICK_STEPS or self.controller._tasks
            if len(self.policy.seen) > ticks and not pending:
                return
        raise AssertionError("no tick came")
