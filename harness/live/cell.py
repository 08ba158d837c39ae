"""One arm under one seed on a running server: reset it, replay the workload, let the policy rule, write the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MissingPart
from harness.live.controller import Controller
from harness.live.load import Answer, Ask, drive, largest_lag
from harness.live.record import Recorder
from harness.live.report import STATIC_FILE, TrainerConfig
from harness.live.server import Server, Worker
from harness.live.trainer import TrainerProcess
from harness.policy import Policy, PolicyContext
from harness.runlog import CellWriter
from workloads.scenario import Scenario

ANSWER_SECONDS = 120.0
LEAD_SECONDS = 0.3
"""Between the reset of a server and the first arrival."""


@dataclass
class Station:
    """A running server, and what has to be put back before the next arm is measured on it."""

    server: Server
    weights: Path
    """Folder of the trainer's files."""
    trainer: TrainerProcess | None = None
    changed_target: bool = False
    ours: bool = True
    """Started here: closed here, and its link removed."""

    @property
    def static(self) -> Path:
        return self.weights / STATIC_FILE

    async def reset(self, policy: Policy, seed: int, untrained: bool) -> TrainerProcess | None:
        """The state of the start: static drafter, first target, empty rings, a learner that knows nothing."""
        worker = Worker(self.server.link)
        if self.changed_target:
            target = Path(self.server.config.model.target)
            _must(await asyncio.to_thread(worker.swap, target, 0, "verifier"))
            self.changed_target = False
        if self.server.config.drafter:
            self._begin_trainer(policy, seed, untrained)
            _must(await asyncio.to_thread(worker.swap, self.static, 0))
        for _ in self.server.link.steps.take():
            pass
        return self.trainer if policy.trains else None

    def _begin_trainer(self, policy: Policy, seed: int, untrained: bool) -> None:
        model, link = self.server.config.model, self.server.link
        if self.trainer is not None and self.trainer.poll().state.alive:
            self.trainer.begin(policy.learner, seed, untrained)
            return
        config = TrainerConfig(
            link.folder,
            Path(model.target),
            Path(model.head),
            self.weights,
            policy.learner,
            seed,
            untrained,
            self.server.config.placement.trainer,
        )
        self.trainer = TrainerProcess(config)
        if not self.trainer.wait_ready():
            raise MissingPart("the trainer process did not start; is specdrift[learn] installed?")

    def close(self) -> None:
        if self.trainer is not None:
            self.trainer.stop()
        if self.ours:
            self.server.stop()
            self.server.link.remove()


def _must(answer: dict[str, Any]) -> None:
    if not answer["ok"]:
        raise MissingPart(f"the server could not be put back to its start: {answer['error']}")


async def run_cell(
    station: Station,
    policy: Policy,
    context: PolicyContext,
    scenario: Scenario,
    asks: Sequence[Ask],
    seed: int,
    writer: CellWriter,
    temperature: float = 0.0,
) -> tuple[list[Answer], list[tuple[float, float]]]:
    """Measure one arm; its rows go to `writer`.

    Returns:
        Answers in the order of `asks`, failed ones among them; `Controller.verifier_changes`.
    """
    trainer = await station.reset(policy, seed, scenario.drafter == "untrained")
    slo = {tenant.name: tenant.slo for tenant in scenario.tenants}
    recorder = Recorder(writer)
    controller = Controller(
        link=station.server.link,
        policy=policy,
        context=context,
        static=station.static if station.server.config.drafter else None,
        trainer=trainer,
        slo=slo,
        sink=recorder,
    )
    began = controller.begin(LEAD_SECONDS)
    stop = asyncio.Event()
    control = asyncio.create_task(controller.run(stop))
    story = asyncio.create_task(_happen(controller, station, scenario, asks))
    model = station.server.config.model.name
    most = max(ask.request.output_tokens for ask in asks)
    answers = await drive(
        station.server.url,
        model,
        asks,
        began=began,
        most_tokens=most,
        timeout=ANSWER_SECONDS,
        temperature=temperature,
    )
    await story
    controller.note("client", largest_lag=largest_lag(asks, answers), retries=_retries(answers))
    for answer in answers:
        if answer.status == "failed":
            controller.note("failed", request=answer.request_id, reason=answer.error)
    stop.set()
    await control
    recorder.close(asks, answers, slo, began)
    return answers, controller.verifier_changes


def _retries(answers: Sequence[Answer]) -> int:
    return sum(max(0, answer.attempts - 1) for answer in answers)


async def _happen(controller: Controller, station: Station, scenario: Scenario, asks: Sequence[Ask]) -> None:
    """What the scenario has in store, when its request arrives."""
    total = len(asks)
    moments: list[tuple[float, str, Any]] = [(s.at, "shift", s.after) for s in scenario.shifts()]
    moments += [(u.at, "verifier_update", u) for u in scenario.verifier_updates]
    moments += [(f.at, f.kind, None) for f in scenario.faults]
    for at, kind, detail in sorted(moments, key=lambda m: m[0]):
        index = min(int(at * total), total - 1)
        await asyncio.sleep(max(0.0, asks[index].request.arrival - controller.now))
        if kind == "shift":
            # Of the moment its first request was due: that one arrives no earlier, so it counts to what follows.
            controller.note("shift", at=asks[index].request.arrival, to=detail)
        elif kind == "verifier_update":
            await _update(controller, station, detail)
        else:
            controller.note("fault", fault=kind)
            _fault(controller, kind)


async def _update(controller: Controller, station: Station, update: Any) -> None:
    successor = station.server.config.model.successor
    assert successor is not None  # checked before anything started
    folder = Path(station.server.config.model.target) if controller.verifier_version % 2 else successor
    station.changed_target = True
    await controller.update_verifier(folder, update.kv_invalid)


def _fault(controller: Controller, kind: str) -> None:
    if kind == "swap_fails":
        controller.fail_next_swap = True
    elif controller.trainer is not None and kind == "trainer_dies":
        controller.trainer.kill()
    elif controller.trainer is not None and kind == "corrupt_candidate":
        controller.trainer.tell("corrupt")


__all__ = ["Station", "run_cell"]
