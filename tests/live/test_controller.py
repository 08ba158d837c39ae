"""The control loop: what the server wrote becomes an observation, the plan comes into force, faults are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

pytest.importorskip("torch")

from control_bench import K3, ON, Bench, FakeWorker
from test_feed import begin, end, step, verified

from harness.contract import (
    STATIC,
    Plan,
    PositionCounts,
    Slo,
    TrainerState,
    TrainPlan,
)
from harness.live import controller as control
from harness.live.link import Link
from harness.observe import TICK_STEPS


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
    decided = len(bench.policy.seen)
    bench.link.steps.put(*step(batch=1, output_tokens=2))
    asyncio.run(bench.controller.settle())
    assert bench.sink.rows == TICK_STEPS + 1
    last = bench.sink.of("tick")[-1]
    assert (last["engine_steps"], last["tokens"]) == (1, 2), (
        "a killed server's last requests are counted, too"
    )
    assert (last["plan"]["k"], last["plan"]["publish"]) == (K3.k_by_batch, False)
    assert len(bench.policy.seen) == decided, "nothing is decided any more"


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
    ((asked, done),) = bench.controller.verifier_changes
    assert 0.0 <= asked <= done <= bench.controller.now
    (told,) = bench.sink.of("verifier_update")
    assert (told["version"], told["stall"], told["kv_invalid"]) == (1, 0.25, True)


def test_a_verifier_that_does_not_come_is_a_fault(make, tmp_path):
    bench = make(replace(K3, train=ON))
    bench.worker.fails = "no weights"
    bench.run(bench.ticks, lambda: _then(bench, bench.controller.update_verifier(tmp_path, False)))
    assert bench.sink.of("fault") == [{"fault": "verifier_update", "reason": "no weights"}]
    assert bench.controller.verifier_version == 0
    assert bench.controller.verifier_changes == []
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


def test_when_its_trainer_worked_is_logged_in_seconds_of_the_run(make):
    bench = make(replace(K3, train=ON))

    def work() -> None:
        began = bench.controller.began
        bench.trainer.worked += [(began + 1.0, began + 2.5), (began + 3.0, began + 3.25)]
        bench.ticks()

    bench.run(work, bench.ticks)
    (told,) = bench.sink.of("trained")
    assert told["spans"] == [[1.0, 2.5], [3.0, 3.25]]
