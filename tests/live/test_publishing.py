"""Swaps as the controller sees them: published, failed, rolled back; one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

pytest.importorskip("torch")

from control_bench import K3, ON, Bench, FakeWorker

from harness.contract import STATIC, TRAINED
from harness.live import controller as control
from harness.live.controller import truncated
from harness.live.link import Link


@pytest.fixture
def make(tmp_path, monkeypatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setattr(control, "Worker", FakeWorker)
    monkeypatch.setattr(control, "POLL_SECONDS", 0.002)
    link = Link.create(4096)
    yield lambda *plans, **more: Bench(link, tmp_path, *plans, **more)
    link.remove()


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
    assert [said["candidate"] for said in bench.sink.of("trainer_state")] == [10, None]


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
