"""The control loop: what the server wrote becomes an observation, the plan comes into force, faults are told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from test_feed import begin, end, step, verified

from harness.contract import (
    STATIC,
    TRAINED,
    Event,
    Observation,
    Plan,
    PositionCounts,
    Slo,
    TrainerState,
    TrainPlan,
    constant_k,
)
from harness.live import controller as control
from harness.live.controller import Controller, truncated
from harness.live.link import Link
from harness.live.trainer import Report
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

    def poll(self) -> Report:
        return self.report

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


@pytest.fixture
def make(tmp_path, monkeypatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setattr(control, "Worker", FakeWorker)
    monkeypatch.setattr(control, "POLL_SECONDS", 0.002)
    link = Link.create(4096)
    yield lambda *plans, **more: Bench(link, tmp_path, *plans, **more)
    link.remove()


def table(link: Link) -> list[int]:
    found = link.control.read_schedule()
    assert found is not None
    return found[1][1:].tolist()


# --- ticks -------------------------------------------------------------------------------------


def test_a_tick_comes_after_its_steps_and_sees_them(make):
    bench = make(K3, slo={"acme": Slo(ttft=1.0)})

    def served() -> None:
        put = bench.link.steps.put
        for record in (
            begin(1), begin(2, domain="chat"), verified((1, 0, 3, 1), (2, 0, 3, 3)), verified((1, 2, 2, 0)), end(1),
        ):  # fmt: skip
            put(*record)
        for _ in range(TICK_STEPS - 2):
            put(*step(batch=2, k=3, seconds=0.5, output_tokens=4))
        put(*step(batch=1, prefill_tokens=7, output_tokens=1))
        put(*step(batch=4, running=5, waiting=2, kv_blocks=10, kv_total=40, context_tokens=400, seconds=0.1))

    bench.run(served)
    o = bench.policy.seen[0]
    assert (o.engine_steps, o.tokens, o.prefill_tokens) == (TICK_STEPS, 4 * (TICK_STEPS - 2) + 1, 7)
    assert (o.running, o.waiting, o.kv_use, o.mean_context) == (5, 2, 0.25, 100.0)
    assert [(s.batch, s.k, s.steps) for s in o.steps] == [(2, 3, TICK_STEPS - 2), (4, 0, 1)]
    assert o.steps[0].seconds == pytest.approx(0.5 * (TICK_STEPS - 2))
    assert o.positions == {
        ("code", "acme"): PositionCounts((2, 1, 0), (1, 0, 0)),
        ("chat", "acme"): PositionCounts((1, 1, 1), (1, 1, 1)),
    }
    assert (o.finished, o.slo_attainment) == (1, 0.0)
    assert (o.drafter, o.drafter_version, o.last_swap) == (STATIC, 0, None)
    assert bench.sink.rows == TICK_STEPS
    assert bench.sink.requests == [101, 102, 101], "known also in the tick in which they end"
    assert bench.controller.feed.request_of(1) == -1
    assert bench.sink.of("tick")[0]["tokens"] == o.tokens


def test_counts_are_since_the_last_tick(make):
    bench = make(K3)
    bench.run(bench.ticks, bench.ticks)
    assert [o.tokens for o in bench.policy.seen[:2]] == [TICK_STEPS, TICK_STEPS]
    assert bench.policy.seen[0].time < bench.policy.seen[1].time


def test_an_idle_server_ticks_by_the_clock(make, monkeypatch):
    monkeypatch.setattr(control, "TICK_SECONDS", 0.05)
    bench = make(K3)
    bench.run(lambda: None, lambda: None)
    assert len(bench.policy.seen) >= 2
    assert bench.policy.seen[0].engine_steps == 0


def test_the_last_records_are_taken_in_at_the_end(make):
    bench = make(K3)
    bench.run(bench.ticks)
    bench.link.steps.put(*step(batch=1))
    asyncio.run(bench.controller.settle())
    assert bench.sink.rows == TICK_STEPS + 1


# --- the plan into force -----------------------------------------------------------------------


def test_the_first_plan_is_in_force_before_the_first_request(make):
    bench = make(Plan(((1, 4, 5), (5, 64, 1))))
    assert table(bench.link)[:6] == [5, 5, 5, 5, 1, 1]


def test_a_new_plan_reaches_the_server_and_an_equal_one_does_not_stir_it(make):
    bench = make(K3, K3, Plan(((1, 2, 4), (3, 64, 0))))
    before = bench.link.control.sequence
    sequences = []
    bench.run(
        bench.ticks,
        lambda: sequences.append(bench.link.control.sequence) or bench.ticks(),
    )
    assert sequences == [before]
    assert table(bench.link)[:4] == [4, 4, 0, 0]


def test_what_the_trainer_and_the_tap_are_told(make):
    """The share of requests is traced while the trainer trains, or once it has begun to."""
    off, half = replace(K3, train=TrainPlan()), replace(K3, train=replace(ON, sample=0.5))
    bench = make(off, half, half, off, off)
    shares = []

    def note() -> None:
        shares.append(bench.link.control.get("sample"))
        bench.ticks()

    bench.run(note, note, note, note)
    assert [t[1] for t in bench.trainer.told] == [off.train, half.train, off.train]
    assert shares == [0.0, 0.5, 0.5, 0.0]
    later = make(off)
    later.trainer.becomes(steps=3)
    later.run(later.ticks)
    assert later.link.control.get("sample") == 1.0, "it pauses, but its buffer lives on"


def test_without_a_trainer_nothing_is_traced(make):
    bench = make(replace(K3, train=ON), trainer=False)
    bench.link.control.set("sample", 1.0)
    bench.run(bench.ticks)
    assert bench.link.control.get("sample") == 0.0
    assert bench.policy.seen[0].trainer == TrainerState()
    assert bench.sink.of("trainer") == []


# --- publication -------------------------------------------------------------------------------

PUBLISH = replace(K3, train=ON, publish=True)


def test_a_published_candidate_serves(make):
    bench = make(PUBLISH)
    path = bench.offered("candidate-1")
    bench.run(bench.ticks, bench.ticks)
    assert bench.worker.swaps == [("drafter", path, 1, False)]
    first, second = bench.policy.seen[:2]
    assert (first.trainer.candidate, first.drafter_version) == (10, 0)
    assert (second.drafter, second.drafter_version) == (TRAINED, 1)
    assert second.last_swap is not None
    assert (second.last_swap.version, second.last_swap.stall, second.last_swap.ok) == (1, 0.25, True)
    assert second.drafter_age < second.time
    assert bench.trainer.told[1:] == [("published", path), ("serving", path)]
    (swap,) = bench.sink.of("swap")
    assert (swap["version"], swap["ok"], swap["stall"], swap["fingerprint"]) == (1, True, 0.25, "f1")
    assert bench.sink.of("publish") == [{"samples": 80}]


def test_a_candidate_is_published_once_although_the_trainer_still_reports_it(make):
    """Its process hears of the publication only after its step; until then the report is old."""
    bench = make(PUBLISH)
    bench.offered("candidate-1")
    bench.run(bench.ticks, bench.ticks, bench.ticks)
    assert [s[2] for s in bench.worker.swaps] == [1]
    assert [o.trainer.candidate for o in bench.policy.seen[:3]] == [10, None, None]
    assert bench.policy.seen[1].trainer.candidate_samples == 0
    bench.offered("candidate-2")
    bench.policy.seen.clear()
    bench.run(bench.ticks)
    assert [s[2] for s in bench.worker.swaps] == [1, 2]


def test_nothing_is_published_while_a_swap_is_on_its_way(make):
    bench = make(PUBLISH)
    bench.offered("candidate-1")
    bench.worker.open.clear()

    def another() -> None:
        bench.offered("candidate-2")
        bench.ticks()

    async def hold() -> None:
        bench.ticks()
        while not bench.worker.swaps:
            await asyncio.sleep(0.005)
        another()
        while len(bench.policy.seen) < 2:
            await asyncio.sleep(0.005)
        assert [s[2] for s in bench.worker.swaps] == [1]
        bench.worker.open.set()
        bench.ticks()

    bench.run(hold, bench.ticks)
    assert [s[1].name for s in bench.worker.swaps] == ["candidate-1", "candidate-2"]


def test_a_failed_swap_is_told_and_what_served_stays(make):
    bench = make(PUBLISH)
    bench.offered("candidate-1")
    bench.worker.fails = "layer fc answers the probe off by 0.9 of its range"
    bench.run(bench.ticks, bench.ticks)
    (swap,) = bench.sink.of("swap")
    assert (swap["ok"], swap["version"], swap["reason"]) == (False, 1, bench.worker.fails)
    o = bench.policy.seen[1]
    assert (o.drafter, o.drafter_version) == (STATIC, 0)
    assert o.last_swap is not None
    assert not o.last_swap.ok
    assert ("serving", bench.static) not in bench.trainer.told
    assert len(bench.worker.swaps) == 1, "version 0 serves and is meant: nothing to go back to"
    bench.worker.fails = ""
    bench.offered("candidate-2")
    bench.run(bench.ticks, bench.ticks)
    assert bench.policy.seen[-1].drafter_version == 1, "the number of one that failed is free"


def test_a_fault_injected_into_a_swap_cuts_its_file_once(make):
    bench = make(PUBLISH)
    path = bench.offered("candidate-1")
    bench.controller.fail_next_swap = True
    bench.run(bench.ticks)
    sent = bench.worker.swaps[0][1]
    assert sent != path
    assert sent.stat().st_size == path.stat().st_size // 2
    other = bench.offered("candidate-2")
    bench.run(bench.ticks)
    assert bench.worker.swaps[1][1] == other
    assert truncated(path).read_bytes() == path.read_bytes()[:50]


def test_back_to_static_and_to_an_earlier_version(make):
    static, first = replace(K3, drafter=STATIC), replace(K3, drafter="version:1")
    bench = make(PUBLISH, PUBLISH, PUBLISH, static, first, replace(K3, drafter="version:7"))
    paths = [bench.folder / f"candidate-{i}" for i in (1, 2)]

    def offer(name: str) -> None:
        bench.offered(name)
        bench.ticks()

    bench.run(lambda: offer("candidate-1"), lambda: offer("candidate-2"), *[bench.ticks] * 4)
    assert [s[1:3] for s in bench.worker.swaps] == [
        (paths[0], 1), (paths[1], 2), (bench.static, 0), (paths[0], 1), (bench.static, 0),
    ], "a version that is not kept means the static one"  # fmt: skip
    seen = [(o.drafter, o.drafter_version) for o in bench.policy.seen[:6]]
    assert seen == [(STATIC, 0), (TRAINED, 1), (TRAINED, 2), (STATIC, 0), (TRAINED, 1), (STATIC, 0)]
    assert [d["drafter"] for d in bench.sink.of("swap")] == [TRAINED, TRAINED, STATIC, TRAINED, STATIC]
    told = [t[1] for t in bench.trainer.told if t[0] == "serving"]
    assert told == [*paths, bench.static, paths[0], bench.static]


# --- what else happens -------------------------------------------------------------------------


def test_a_trainer_that_dies_is_told_once_and_serving_goes_on(make):
    bench = make(replace(K3, train=ON))
    bench.run(
        bench.ticks,
        lambda: bench.trainer.becomes(alive=False) or bench.ticks(),
        bench.ticks,
    )
    assert [f["fault"] for f in bench.sink.of("fault")] == ["trainer_died"]
    assert [o.trainer.alive for o in bench.policy.seen[:3]] == [True, False, False]


def test_a_refused_candidate_is_told_with_its_reason(make):
    bench = make(replace(K3, train=ON))
    bench.run(
        bench.ticks,
        lambda: bench.trainer.becomes("worse on sql", quarantined=1) or bench.ticks(),
        bench.ticks,
    )
    assert bench.sink.of("quarantine") == [{"reason": "worse on sql"}]
    assert bench.policy.seen[1].trainer.quarantined == 1


@pytest.mark.parametrize("ring", ["steps", "traces"])
def test_records_that_found_no_room_are_told(make, ring: str):
    """Those of this run: an earlier run on the same server has told its own."""
    make(K3)
    too_large = bytes(32 << 20)
    link = make(K3).link
    getattr(link, ring).put(1, too_large)
    bench = make(K3)

    def lose() -> None:
        for _ in range(3):
            getattr(link, ring).put(1, too_large)
        bench.ticks()

    bench.run(bench.ticks, lose, bench.ticks)
    told = bench.sink.of("dropped")
    assert {d["ring"] for d in told} == {ring}
    assert sum(d["records"] for d in told) == 3


def test_a_new_verifier(make, tmp_path):
    bench = make(replace(K3, train=ON))
    bench.run(
        bench.ticks, lambda: _then(bench, bench.controller.update_verifier(tmp_path, True)), bench.ticks
    )
    assert bench.worker.swaps == [("verifier", tmp_path, 1, True)]
    assert ("verifier", 1, tmp_path) in bench.trainer.told
    assert bench.policy.seen[-1].verifier_version == 1
    (told,) = bench.sink.of("verifier_update")
    assert (told["version"], told["stall"], told["kv_invalid"]) == (1, 0.25, True)


def test_a_verifier_that_does_not_come_is_a_fault(make, tmp_path):
    bench = make(replace(K3, train=ON))
    bench.worker.fails = "no weights"
    bench.run(bench.ticks, lambda: _then(bench, bench.controller.update_verifier(tmp_path, False)))
    assert bench.sink.of("fault") == [{"fault": "verifier_update", "reason": "no weights"}]
    assert bench.controller.verifier_version == 0
    assert not any(t[0] == "verifier" for t in bench.trainer.told)


async def _then(bench: Bench, work) -> None:
    await work
    bench.ticks()


def test_a_run_ends_with_what_its_trainer_cost(make):
    bench = make(replace(K3, train=ON))
    bench.trainer.report = replace(bench.trainer.report, busy_seconds=2.5, incomplete=3, tokens=900)
    bench.run(bench.ticks)
    (told,) = bench.sink.of("trainer")
    assert (told["busy_seconds"], told["incomplete"], told["tokens"]) == (2.5, 3, 900)
    times = [e.time for e in bench.sink.all]
    assert times == sorted(times)
