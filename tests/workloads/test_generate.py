"""Requests from scenarios and traces: determinism, separate streams, labels."""

from collections import Counter, defaultdict
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.contract import Request
from harness.errors import UnknownName
from workloads.domains import domain
from workloads.generate import CHUNK, apply_trace, generate
from workloads.scenario import load_scenario, scenario_from, scenario_names


def scenario(requests=5000, **changes):
    table = {
        "name": "test",
        "question": "?",
        "requests": requests,
        "arrivals": {"process": "poisson", "rate": 10.0},
        "mixture": {
            "kind": "piecewise",
            "stages": [{"domains": {"chat": 1, "code": 1}}, {"domains": {"math": 1}}],
        },
    }
    return scenario_from(table | changes, "test")


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_generates_what_it_says(name):
    one = load_scenario(name)
    requests = list(generate(one, 1))
    assert [r.request_id for r in requests] == list(range(one.requests))
    arrivals = np.array([r.arrival for r in requests])
    assert (np.diff(arrivals) >= 0).all()
    assert {r.domain for r in requests} <= set(one.domains())
    assert {r.tenant for r in requests} == {t.name for t in one.tenants}
    assert requests[:50] == list(islice(generate(one, 1), 50))
    assert requests[:50] != list(islice(generate(one, 2), 50))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3 * CHUNK), st.integers(0, 99))
def test_any_count_comes_out_whole(count, seed):
    requests = list(generate(scenario(count), seed))
    assert [r.request_id for r in requests] == list(range(count))


BURSTY = {"process": "gamma", "rate": 3.0, "cv": 4.0}
SWING = {"process": "sinusoidal", "rate": 30.0, "amplitude": 0.9, "period": 20.0}
STATES = {"process": "markov", "states": [{"rate": 1, "dwell": 3}, {"rate": 50, "dwell": 1}]}
CLIENTS = {"process": "clients", "window": 10, "clients": [{"windows": [{"rate": 4}, {"rate": 0}]}] * 3}


@pytest.mark.parametrize("arrivals", [BURSTY, SWING, STATES, CLIENTS])
def test_another_arrival_process_changes_arrivals_only(arrivals):
    before, after = (list(generate(s, 3)) for s in (scenario(), scenario(arrivals=arrivals)))
    for a, b in zip(before, after, strict=True):
        assert (a.prompt_tokens, a.output_tokens, a.domain, a.tenant) == (
            b.prompt_tokens,
            b.output_tokens,
            b.domain,
            b.tenant,
        )
    assert before[0].arrival != after[0].arrival


def test_other_tenants_leave_arrivals_and_domains_alone():
    tenants = [{"name": "a", "share": 3}, {"name": "b"}]
    before, after = (list(generate(s, 3)) for s in (scenario(), scenario(tenants=tenants)))
    assert [(r.arrival, r.domain, r.output_tokens) for r in before] == [
        (r.arrival, r.domain, r.output_tokens) for r in after
    ]
    assert np.mean([r.tenant == "a" for r in after]) == pytest.approx(0.75, abs=0.03)


def test_a_domains_lengths_do_not_depend_on_the_other_domains():
    def lengths(weights):
        mix = {"kind": "constant", "domains": weights}
        return [r.output_tokens for r in generate(scenario(mixture=mix), 5) if r.domain == "chat"]

    alone, beside = lengths({"chat": 1}), lengths({"chat": 1, "math": 1})
    assert beside[:1000] == alone[:1000]


def test_lengths_follow_their_domains_law():
    one = scenario(20_000, mixture={"kind": "constant", "domains": {"chat": 1, "math": 1}})
    by_domain = defaultdict(list)
    for request in generate(one, 0):
        by_domain[request.domain].append((request.prompt_tokens, request.output_tokens))
    for name, rows in by_domain.items():
        prompts, outputs = np.array(rows).T
        assert np.median(prompts) == pytest.approx(domain(name).prompt.median, rel=0.06)
        assert np.median(outputs) == pytest.approx(domain(name).output.median, rel=0.06)


def test_load_divides_every_arrival():
    plain, double = (list(generate(s, 0)) for s in (scenario(50), scenario(50, load=2.0)))
    assert [r.arrival / 2 for r in plain] == [r.arrival for r in double]


def test_tenants_with_domains_of_their_own_keep_them():
    tenants = [{"name": "coder", "domains": {"code": 1}}, {"name": "rest"}]
    one = scenario(tenants=tenants, mixture={"kind": "constant", "domains": {"math": 1}})
    pairs = Counter((r.tenant, r.domain) for r in generate(one, 0))
    assert set(pairs) == {("coder", "code"), ("rest", "math")}
    assert one.domains() == ("code", "math")


def test_a_mixture_by_time_keeps_step_with_the_clock():
    mix = {
        "kind": "piecewise",
        "by": "time",
        "period": 10.0,
        "stages": [{"domains": {"chat": 1}, "share": 3}, {"domains": {"math": 1}}],
    }
    one = scenario(2000, mixture=mix)
    assert one.shifts() == ()
    for request in generate(one, 0):
        assert (request.domain == "math") == (request.arrival % 10 >= 7.5)


def trace(n):
    return (Request(9 + i, i * 0.5, 100 + i, 7, prefix_hashes=(i,)) for i in range(n))


def test_a_trace_gives_arrivals_lengths_and_prefixes_the_scenario_the_labels():
    one = scenario(load=2.0)
    got = list(apply_trace(one, trace(CHUNK + 10), seed=0, total=CHUNK + 10))
    assert [r.request_id for r in got] == list(range(CHUNK + 10))
    assert [r.arrival for r in got] == [i * 0.25 for i in range(CHUNK + 10)]
    assert got[7].prompt_tokens == 107
    assert got[7].prefix_hashes == (7,)
    half = (CHUNK + 10) // 2
    assert {r.domain for r in got[:half]} == {"chat", "code"}
    assert {r.domain for r in got[half:]} == {"math"}
    assert {r.tenant for r in got} == {"default"}


def test_a_trace_gets_the_labels_that_generated_requests_would_get():
    one = scenario(300)
    assert [r.domain for r in apply_trace(one, trace(300), 4)] == [r.domain for r in generate(one, 4)]


def test_labels_of_the_trace_are_kept_and_checked():
    one = scenario(tenants=[{"name": "a"}, {"name": "b"}])
    row = Request(0, 0.0, 1, 1, domain="translation", tenant="b")
    assert next(apply_trace(one, [row], 0)) == row
    with pytest.raises(UnknownName, match="unknown domain 'chatt'; did you mean 'chat'"):
        next(apply_trace(one, [Request(0, 0.0, 1, 1, domain="chatt")], 0))
    with pytest.raises(UnknownName, match="unknown tenant 'c'"):
        next(apply_trace(one, [Request(0, 0.0, 1, 1, tenant="c")], 0))


def test_streams_are_lazy():
    endless = (Request(i, float(i), 1, 1) for i in iter(int, 1))
    assert len(list(islice(apply_trace(scenario(), endless, 0), 3))) == 3
    assert len(list(islice(generate(scenario(10**12), 0), 3))) == 3
