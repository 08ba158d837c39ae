"""Metrics for Prometheus: what the controller logs, as counters and gauges, under labels that stay few."""

from __future__ import annotations

import socket
import urllib.request
from dataclasses import replace

import pytest

pytest.importorskip("prometheus_client")

from harness.contract import (
    Event,
    Observation,
    Plan,
    PositionCounts,
    StepLatency,
    TrainerState,
    TrainPlan,
    constant_k,
)
from harness.decisions import tick_detail
from harness.errors import InputError
from harness.live.metrics import MOST_DOMAINS, OTHERS, Metrics


def tick(positions=(), **more) -> Event:
    observation = Observation(time=1.0, positions=dict(positions), **more)
    return Event(1.0, "tick", tick_detail(observation, Plan(constant_k(3), train=TrainPlan(on=True))))


def test_ticks_add_up():
    metrics = Metrics()
    counts = PositionCounts((10, 6, 3), (6, 3, 1))
    for _ in range(2):
        metrics.events(
            [
                tick(
                    {("code", "acme"): counts, ("code", "other"): counts},
                    steps=(
                        StepLatency(batch=4, k=3, steps=4, seconds=0.15, tokens=50),
                        StepLatency(batch=4, k=3, steps=1, seconds=0.05, tokens=10, drafted=0),
                    ),
                    tokens=70,
                    finished=3,
                    drafter_version=2,
                    trainer=TrainerState(steps=8),
                )
            ]
        )

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"specdrift_{name}", labels)

    assert value("engine_steps_total", k="3") == 10
    assert value("engine_step_seconds_total", k="3") == pytest.approx(0.4)
    assert value("output_tokens_total") == 140
    assert value("requests_finished_total") == 6
    assert value("verified_sequences_total", domain="code") == 40
    assert value("accepted_tokens_total", domain="code") == 40
    assert (value("drafter_version"), value("trainer_on"), value("trainer_steps")) == (2, 1, 8)


def test_a_step_between_two_k_is_logged_as_one():
    step = StepLatency(batch=4, k=3, steps=1, seconds=0.05, tokens=10)
    rows = tick(steps=(step, replace(step, drafted=0))).detail["steps"]
    assert rows == [[4, 3, 1, 0.05, 10], [4, 3, 1, 0.05, 10, 0]]


def test_what_happens_is_counted():
    metrics = Metrics()
    metrics.events(
        [
            Event(1.0, "swap", {"version": 1, "ok": True, "stall": 0.002}),
            Event(2.0, "swap", {"version": 2, "ok": False, "stall": 0.0, "reason": "cut off"}),
            Event(3.0, "quarantine", {"reason": "worse"}),
            Event(4.0, "dropped", {"ring": "traces", "records": 7}),
            Event(5.0, "fault", {"fault": "trainer_died", "note": ""}),
            Event(6.0, "verifier_update", {"version": 1}),
            Event(7.0, "serving", {"url": "of no interest here"}),
        ]
    )
    value = metrics.registry.get_sample_value
    assert value("specdrift_swaps_total", {"outcome": "done"}) == 1
    assert value("specdrift_swaps_total", {"outcome": "failed"}) == 1
    assert value("specdrift_swap_stall_seconds_total") == 0.002
    assert value("specdrift_quarantined_total") == 1
    assert value("specdrift_dropped_records_total", {"ring": "traces"}) == 7
    assert value("specdrift_faults_total", {"fault": "trainer_died"}) == 1
    assert value("specdrift_verifier_version") == 1


def test_clients_cannot_name_domains_without_end():
    metrics = Metrics()
    for i in range(MOST_DOMAINS + 5):
        metrics.events([tick({(f"domain-{i}", "t"): PositionCounts((1,), (1,))})])
    metrics.events([tick({("domain-0", "t"): PositionCounts((1,), (0,))})])
    value = metrics.registry.get_sample_value
    assert value("specdrift_verified_sequences_total", {"domain": OTHERS}) == 5
    assert value("specdrift_verified_sequences_total", {"domain": "domain-0"}) == 2
    assert value("specdrift_verified_sequences_total", {"domain": f"domain-{MOST_DOMAINS}"}) is None


def test_they_are_answered_until_stopped_and_a_port_in_use_is_said():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stop = Metrics().answer("127.0.0.1", port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"specdrift_drafter_version 0.0" in answer.read()
        with pytest.raises(InputError, match=f"127.0.0.1:{port} .* give another port"):
            Metrics().answer("127.0.0.1", port)
    finally:
        stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)
