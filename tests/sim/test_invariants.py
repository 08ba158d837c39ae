"""The numbered invariants of docs/invariants.md, as properties of the engine under random load."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.contract import Request, constant_k
from harness.sim.state import REJECTED
from tests.sim.conftest import drive

SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def loads(draw) -> list[Request]:
    """Up to 40 requests: bursts and gaps, short and long, with overlapping prompt prefixes."""
    n = draw(st.integers(1, 40))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.5, 30.0]), min_size=n, max_size=n))
    prompts = draw(st.lists(st.integers(1, 3000), min_size=n, max_size=n))
    outputs = draw(st.lists(st.integers(1, 300), min_size=n, max_size=n))
    family = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    times = np.cumsum(gaps)
    return [
        Request(i, float(t), p, o, "chat", "default", tuple(100 * f + j for j in range(p // 512)))
        for i, (t, p, o, f) in enumerate(zip(times, prompts, outputs, family, strict=True))
    ]


engines = st.fixed_dictionaries(
    {
        "k": st.integers(0, 7),
        "kv_tokens": st.sampled_from([3600, 6000, 40_000]),
        "max_num_seqs": st.sampled_from([1, 4, 32]),
        "max_num_batched_tokens": st.sampled_from([64, 512, 2048]),
        "prefix_caching": st.booleans(),
        "async_scheduling": st.booleans(),
        "reserve_prompt": st.booleans(),
        "drafter_loaded": st.booleans(),
    }
)


def build(make_engine, config):
    config = dict(config)
    if not config["drafter_loaded"]:
        config["k"] = 0
    return make_engine(prefix_hashes=6 if config["prefix_caching"] else 0, **config)


def check_free_queue(engine):
    """The blocks that the free queue's order speaks of are exactly the free ones."""
    reg, slots = engine.state.reg[0], engine.state.slots
    slot, older, total = int(reg["oldest_kept"]), -1, int(reg["front"])
    if slot < 0:
        return
    while slot >= 0:
        assert slots[slot]["kept"] > 0
        assert slots[slot]["older"] == older
        total += int(slots[slot]["kept"] + slots[slot]["behind"])
        slot, older = int(slots[slot]["younger"]), slot
    assert older == reg["youngest_kept"]
    assert total == reg["free_blocks"]


@SETTINGS
@given(loads(), engines)
def test_inv_1_requests_are_conserved(make_engine, requests, config):
    engine = build(make_engine, config)
    ended = 0

    def watch(engine, submitted):
        nonlocal ended
        ended += int(engine.state.reg[0]["done"])
        assert submitted == ended + len(engine.unfinished()) + len(engine.rejected)

    _, done = drive(engine, requests, chunk=7, watch=watch)
    assert len(done) + len(engine.rejected) == len(requests)
    assert (engine.rejected_rows(engine.rejected)["status"] == REJECTED).all()
    for row in done:
        asked = requests[row["request_id"]]
        assert row["generated"] == asked.output_tokens
        assert asked.arrival <= row["scheduled"] <= row["first_token"] <= row["finish"]


@SETTINGS
@given(loads(), engines)
def test_inv_2_kv_blocks_are_conserved(make_engine, requests, config):
    engine = build(make_engine, config)
    total = engine.state.reg[0]["total_blocks"]

    def watch(engine, submitted):
        census = engine.block_census()
        assert min(census.values()) >= 0
        assert sum(census.values()) == total
        check_free_queue(engine)
        running = engine.state.running[: engine.state.reg[0]["running"]]
        for slot in engine.state.slots[running]:
            held = slot["blocks"] + slot["shared"] * engine.state.reg[0]["entry_blocks"]
            assert held * engine.config.block_size >= slot["computed"]

    drive(engine, requests, chunk=3, watch=watch)
    engine.plan()  # nothing is left to run; what had just ended gives up its seat
    assert engine.held_blocks == 0


@SETTINGS
@given(loads(), engines)
def test_inv_3_time_never_runs_back(make_engine, requests, config):
    steps, _ = drive(build(make_engine, config), requests, chunk=5)
    assert (steps["seconds"] > 0).all()
    assert (np.diff(steps["start"]) > 0).all()
    ends = steps["start"] + steps["seconds"]
    assert (steps["start"][1:] >= ends[:-1] - 1e-9 * ends[:-1]).all()


@SETTINGS
@given(loads(), engines, st.integers(1, 50))
def test_inv_4_any_stopping_point_gives_the_same_run(make_engine, requests, config, chunk):
    whole = drive(build(make_engine, config), requests)
    parts = drive(build(make_engine, config), requests, chunk=chunk)
    for a, b in zip(whole, parts, strict=True):
        assert a.tobytes() == b.tobytes()


@SETTINGS
@given(loads(), engines)
def test_inv_5_prefix_cache_with_nothing_to_find_is_the_engine_without_it(make_engine, requests, config):
    plain = [replace(r, prefix_hashes=()) for r in requests]
    config = config | {"kv_tokens": 400_000}  # no preemption: a preempted request would find its own blocks
    off = drive(build(make_engine, config | {"prefix_caching": False}), plain)
    on = drive(build(make_engine, config | {"prefix_caching": True}), plain)
    for a, b in zip(off, on, strict=True):
        assert a.tobytes() == b.tobytes()


@SETTINGS
@given(loads(), st.booleans())
def test_inv_6_no_drafts_and_a_free_drafter_is_the_engine_without_one(
    make_engine, published, requests, async_scheduling
):
    idle_free = published.compiled._replace(draft_idle_s=np.zeros_like(published.compiled.draft_idle_s))
    free = replace(published, compiled=idle_free)
    common = {"k": 0, "max_k": 0, "async_scheduling": async_scheduling, "kv_tokens": 6000}
    without = drive(make_engine(drafter_loaded=False, latency=published, **common), requests)
    loaded = drive(make_engine(drafter_loaded=True, latency=free, logit=-np.inf, **common), requests)
    for a, b in zip(without, loaded, strict=True):
        assert a.tobytes() == b.tobytes()


@SETTINGS
@given(loads(), st.integers(0, 7), st.integers(0, 7))
def test_inv_7_arms_of_a_seed_see_the_same_requests(make_engine, requests, k, other):
    _, one = drive(make_engine(k=k), requests)
    _, two = drive(make_engine(k=other), requests)
    one, two = (np.sort(rows, order="request_id") for rows in (one, two))
    for name in ("request_id", "arrival", "prompt", "output", "latent"):
        assert (one[name] == two[name]).all()


def test_inv_7_another_seed_draws_other_latents(make_engine):
    requests = [Request(i, 0.0, 10, 10, "chat", "default") for i in range(20)]
    _, one = drive(make_engine(seed=1), requests)
    _, two = drive(make_engine(seed=2), requests)
    assert (one["latent"] != two["latent"]).all()


@SETTINGS
@given(loads(), engines)
def test_positions_add_up(make_engine, requests, config):
    engine = build(make_engine, config)
    steps, done = drive(engine, requests)
    offered, accepted = engine.take_positions()
    assert offered.sum() == steps["offered"].sum()
    assert accepted.sum() == steps["accepted"].sum() == done["accepted"].sum()
    # a position is offered exactly when all before it were accepted
    assert (offered[:, :, 1:] <= accepted[:, :, :-1]).all()
    assert (accepted <= offered).all()


@pytest.mark.parametrize("k", [1, 3, 7])
def test_useless_drafts_never_help(make_engine, k):
    requests = [Request(i, 0.1 * i, 200, 100, "chat", "default") for i in range(20)]
    plain, none = drive(make_engine(k=0), requests)
    drafted, useless = drive(make_engine(k=k, logit=-np.inf), requests)
    assert useless["accepted"].sum() == 0
    assert drafted["output_tokens"].sum() == plain["output_tokens"].sum()
    assert (useless["finish"] - useless["arrival"]).sum() > (none["finish"] - none["arrival"]).sum()


def test_certain_drafts_give_k_plus_one_tokens_a_step(make_engine):
    engine = make_engine(k=4, logit=np.inf)
    steps, _ = drive(engine, [Request(0, 0.0, 100, 1 + 5 * 20, "chat", "default")])
    # the step of the prefill emits one token and drafts for the first verify step
    assert len(steps) == 1 + 20
    assert (steps["output_tokens"][1:] == 5).all()


def test_k_larger_than_the_engine_was_started_with_is_refused(make_engine):
    from harness.errors import InputError

    with pytest.raises(InputError, match="K is 5"):
        make_engine(max_k=4).set_schedule(constant_k(5))
