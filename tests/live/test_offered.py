"""How much a live run asks: its rate and its number of requests."""

from __future__ import annotations

from itertools import islice

import pytest

pytest.importorskip("torch")
pytest.importorskip("aiohttp")

from harness.errors import InputError
from harness.live import job as live_job
from harness.live.offered import Offered, first_total, offered_load, with_total
from harness.live.prompts import Own
from harness.live.workload import Workload
from workloads import write_trace
from workloads.generate import generate
from workloads.scenario import load_scenario


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"requests": 0}, "requests is 0"),
        ({"seconds": 0.0}, "seconds is 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"requests": 40, "seconds": 30.0}, "give one of them"),
    ],
)
def test_a_length_that_is_none(servable, given, why):
    with pytest.raises(InputError, match=why):
        live_job.prepare(load_scenario("domain-shift"), model="m", **given)


@pytest.mark.parametrize(
    ("given", "per_second", "first", "total"),
    [
        ({"requests": 40}, 9.0, 40, 40),
        ({"seconds": 40.0}, 9.0, 50, 360),
        ({"seconds": 40.0}, 0.5, 50, 50),
        ({}, 9.0, 50, 270),
    ],
)
def test_a_cell_has_the_requests_given_or_those_of_its_time(servable, given, per_second, first, total):
    job = live_job.prepare(load_scenario("domain-shift"), model="m", **given)
    assert first_total(job) == first
    assert with_total(job, Offered(1.0, per_second, 0.7)).requests == total


def test_a_trace_has_no_more_requests_than_it_has(servable, tmp_path):
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, islice(generate(load_scenario("domain-shift"), 0), 150))
    job = live_job.prepare(load_scenario("domain-shift"), model="m", trace=trace)
    assert with_total(job, Offered(1.0, 9.0, 0.7)).requests == 150


def test_the_rate_follows_the_utilisation_or_the_factor(servable):
    scenario = load_scenario("domain-shift")
    workload = Workload(scenario, 200, 1.0, Own({d: [[1]] for d in scenario.domains()}, ""), output_tokens=64)
    found = offered_load(live_job.prepare(scenario, model="m", utilisation=0.25), 640.0, workload)
    assert (found.requests_per_second, found.utilisation) == (pytest.approx(2.5), pytest.approx(0.25))
    assert found.load * workload.rate() == pytest.approx(2.5)
    found = offered_load(live_job.prepare(scenario, model="m", load=0.5), 640.0, workload)
    assert found.requests_per_second == pytest.approx(0.5 * workload.rate())
    assert found.utilisation == pytest.approx(0.05 * workload.rate())
