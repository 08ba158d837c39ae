"""The scheduler against cases that can be worked out by hand, and the two ways to move time."""

from __future__ import annotations

import numpy as np
import pytest

from harness.contract import Request
from harness.errors import InputError
from harness.latency.compiled import step_seconds
from harness.sim.engine import EngineConfig
from tests.sim.conftest import drive


def request(i: int, arrival: float, prompt: int, output: int, prefix: tuple[int, ...] = ()) -> Request:
    return Request(i, arrival, prompt, output, "chat", "default", prefix)


def test_a_lone_request_takes_the_sum_of_its_steps(make_engine, published):
    """Closed form: one prefill step, then one decode step a token, at the published cost."""
    prompt, output = 500, 5
    steps, done = drive(make_engine(k=0, drafter_loaded=False), [request(0, 1.0, prompt, output)])
    ms = 1e-3
    prefill = (5.886 + 1.207 + 0.0210 * prompt + 3.93e-5 * prompt) * ms
    decode = [(5.886 + 1.207 + 0.0210 + 3.93e-5 * (prompt + i)) * ms for i in range(output - 1)]
    assert steps["seconds"] == pytest.approx([prefill, *decode])
    assert done["first_token"][0] == pytest.approx(1.0 + prefill)
    assert done["finish"][0] == pytest.approx(1.0 + prefill + sum(decode))


def test_chunked_prefill_shares_the_budget_with_decoding(make_engine):
    engine = make_engine(k=0, drafter_loaded=False, max_num_batched_tokens=256)
    steps, _ = drive(engine, [request(0, 0.0, 10, 50), request(1, 0.0, 1000, 2)])
    with_prompt = steps[steps["prefill_tokens"] > 0]
    assert with_prompt["prefill_tokens"].tolist() == [256, 255, 255, 244]
    assert (with_prompt["batch"][1:] == 1).all()


def test_asynchronous_scheduling_makes_an_arrival_wait_one_step_more(make_engine):
    first = request(0, 0.0, 100, 50)
    during_second_step = request(1, 0.012, 100, 2)
    starts = {}
    for mode in (False, True):
        engine = make_engine(k=0, drafter_loaded=False, async_scheduling=mode)
        steps, done = drive(engine, [first, during_second_step])
        row = done[done["request_id"] == 1][0]
        starts[mode] = int(np.searchsorted(steps["start"], row["scheduled"]))
    assert starts[True] == starts[False] + 1


def test_preemption_recomputes_and_finishes(make_engine):
    requests = [request(i, 0.0, 300, 600) for i in range(4)]
    engine = make_engine(k=0, drafter_loaded=False, kv_tokens=2400, prefix_caching=False)
    steps, done = drive(engine, requests)
    assert done["preemptions"].sum() > 0
    assert (done["generated"] == 600).all()
    recomputed = steps["prefill_tokens"].sum() - sum(r.prompt_tokens for r in requests)
    assert recomputed > 0


def test_a_preempted_request_finds_its_own_blocks_while_they_last(make_engine):
    requests = [request(i, 0.0, 300, 600) for i in range(4)]
    computed = {}
    for caching in (False, True):
        engine = make_engine(k=0, drafter_loaded=False, kv_tokens=2400, prefix_caching=caching)
        steps, _ = drive(engine, requests)
        computed[caching] = steps["prefill_tokens"].sum()
    assert computed[True] < computed[False]


def test_equal_prefixes_are_computed_once(make_engine):
    prefix = (7, 8, 9)
    requests = [request(0, 0.0, 1600, 5, prefix), request(1, 5.0, 1700, 5, prefix)]
    _, done = drive(make_engine(k=0, drafter_loaded=False, prefix_hashes=3), requests)
    cached = dict(zip(done["request_id"].tolist(), done["cached"].tolist(), strict=True))
    assert cached == {0: 0, 1: 1536}


def test_a_fully_cached_prompt_still_computes_its_last_block(make_engine):
    requests = [request(0, 0.0, 1024, 2, (1, 2)), request(1, 5.0, 1024, 2, (1, 2))]
    _, done = drive(make_engine(k=0, drafter_loaded=False, prefix_hashes=2), requests)
    assert sorted(done["cached"].tolist()) == [0, 1008]


def test_the_least_recently_used_prefix_goes_first(make_engine):
    """Room for two cached prompts: the third pushes out the one not used for longest."""
    asks = [(0, 1), (1, 2), (2, 1), (3, 3), (4, 1), (5, 2)]
    requests = [request(i, 5.0 * i, 600, 2, (key,)) for i, key in asks]
    engine = make_engine(k=0, drafter_loaded=False, prefix_hashes=1, kv_tokens=1500)
    _, done = drive(engine, requests)
    cached = dict(zip(done["request_id"].tolist(), done["cached"].tolist(), strict=True))
    assert cached == {0: 0, 1: 0, 2: 512, 3: 0, 4: 512, 5: 0}


def test_what_can_never_fit_is_rejected_and_kept(make_engine):
    engine = make_engine(kv_tokens=1600)
    assert not engine.submit(request(0, 0.0, 1590, 10))
    assert engine.submit(request(1, 0.0, 1500, 10))
    assert len(engine.rejected) == 1


def test_step_by_step_is_the_same_as_advancing(make_engine, published):
    requests = [request(i, 0.03 * i, 200 + 37 * i, 40 + i) for i in range(30)]
    advanced = drive(make_engine(), requests)
    engine, steps, done, nxt = make_engine(), [], [], 0
    while nxt < len(requests) or not engine.idle:
        if engine.idle:
            engine.wait_until(requests[nxt].arrival)
        while nxt < len(requests) and requests[nxt].arrival <= engine.clock:
            engine.submit(requests[nxt])
            nxt += 1
        if engine.plan():
            engine.commit(step_seconds(published.compiled, engine.state.x))
        steps.append(engine.take_steps())
        done.append(engine.take_done())
    assert np.concatenate(steps).tobytes() == advanced[0].tobytes()
    assert np.concatenate(done).tobytes() == advanced[1].tobytes()


def test_acceptance_decided_outside_is_obeyed(make_engine, published):
    engine = make_engine(k=3)
    engine.state.reg["external"] = 1
    engine.submit(request(0, 0.0, 50, 41))
    produced = []
    while not engine.idle:
        engine.plan()
        engine.state.accept_in[:] = 2
        engine.commit(step_seconds(published.compiled, engine.state.x))
        produced += engine.take_steps()["output_tokens"].tolist()
    assert produced == [1] + [3] * 13 + [1]


def test_growing_the_slots_keeps_the_queue(make_engine):
    engine = make_engine(max_num_seqs=4)
    n = len(engine.state.slots)
    requests = [request(i, 0.0, 20, 3) for i in range(2 * n + 5)]
    _, done = drive(engine, requests)
    assert len(engine.state.slots) == 4 * n
    done = np.sort(done, order="request_id")
    assert done["request_id"].tolist() == list(range(len(requests)))
    assert (np.diff(done["scheduled"]) >= 0).all()


def test_a_verifier_update_recomputes_what_runs(make_engine):
    engine = make_engine(k=0, drafter_loaded=False)
    engine.submit(request(0, 0.0, 300, 50))
    engine.advance(np.inf, 10)
    before = engine.state.slots[0]["generated"]
    engine.set_verifier(1, kv_invalid=True)
    assert engine.held_blocks == 0
    engine.advance(np.inf, 1)
    steps = engine.take_steps()
    assert steps["prefill_tokens"][-1] == 300 + before
    assert steps["verifier_version"][-1] == 1


@pytest.mark.parametrize(
    "wrong", [{"kv_tokens": 0}, {"max_k": 17}, {"block_size": 0}, {"prefix_tokens": 100}]
)
def test_a_nonsense_engine_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        EngineConfig(**wrong)
