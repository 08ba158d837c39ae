"""The replay buffer: its bounds, its books, and what it draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the kernels or rl extra is not installed")

from harness.errors import InputError  # noqa: E402
from harness.speculator.buffer import BufferSettings, ReplayBuffer, owned, rejections  # noqa: E402
from harness.speculator.traces import Trace  # noqa: E402

torch.set_num_threads(1)
HIDDEN, K = 4, 3


def make(
    request: int = 0,
    domain: str = "chat",
    *,
    length: int = 8,
    accepted: tuple[int, ...] = (1, 3),
    drafter: int = 0,
    verifier: int = 0,
) -> Trace:
    steps = len(accepted)
    return Trace(
        tokens=torch.arange(length) % 10,
        prompt_tokens=2,
        fused=torch.zeros(length, 3 * HIDDEN),
        last=torch.zeros(length, HIDDEN),
        at=torch.arange(steps),
        drafted=torch.zeros(steps, K, dtype=torch.int64),
        accepted=torch.tensor(accepted, dtype=torch.int64),
        logq=torch.zeros(steps, K),
        branch=torch.zeros(0, dtype=torch.int64),
        branch_last=torch.zeros(0, K, HIDDEN),
        request_id=request,
        domain=domain,
        drafter_version=drafter,
        verifier_version=verifier,
    )


SIZE = make().stored_as(torch.bfloat16).nbytes
"""Bytes of a stored trace of default length."""


def buffer(traces: float, seed: int = 0, **given: object) -> ReplayBuffer:
    """Room for that many traces of default length."""
    return ReplayBuffer(int(traces * SIZE), np.random.default_rng(seed), BufferSettings(**given))  # type: ignore[arg-type]


def ids(traces: list[Trace]) -> list[int]:
    return [trace.request_id for trace in traces]


def held(b: ReplayBuffer) -> list[Trace]:
    return [h.trace for h in (*b._recent, *b._replay)]


def check_books(b: ReplayBuffer) -> None:
    traces = held(b)
    assert b.nbytes == sum(trace.nbytes for trace in traces) <= b.capacity_bytes
    assert b.nbytes <= b.peak_bytes <= b.capacity_bytes
    assert len(b) == len(traces) == len({id(trace) for trace in traces}) == sum(b.domains().values())
    assert b.seen == len(b) + b.dropped + b.retired + b.stale


ACTIONS = st.one_of(
    st.tuples(
        st.just("add"), st.integers(3, 60), st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 1)
    ),
    st.tuples(st.just("sample"), st.integers(1, 6), st.integers(0, 6)),
    st.tuples(st.just("version"), st.integers(0, 5)),
    st.tuples(st.just("verifier"), st.integers(0, 2)),
)


@settings(max_examples=80, deadline=None)
@given(
    actions=st.lists(ACTIONS, max_size=40),
    capacity=st.floats(0.2, 12),
    recent=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    lag=st.sampled_from([None, 0, 2]),
    once=st.booleans(),
)
def test_bytes_stay_bounded_and_every_trace_is_accounted_for(
    actions: list[tuple], capacity: float, recent: float, lag: int | None, once: bool
) -> None:
    b = buffer(capacity, recent_share=recent, max_version_lag=lag, once=once)
    for kind, *values in actions:
        if kind == "add":
            length, domain, drafter, verifier = values
            before = b.dropped
            trace = make(b.seen, domain, length=length, drafter=drafter, verifier=verifier)
            assert b.add(trace) == b.dropped - before
        elif kind == "sample":
            n, fresh = values
            had = len(b)
            drawn = b.sample(n, fresh=min(n, fresh))
            assert len(set(ids(drawn))) == len(drawn) == min(n, had)
        elif kind == "version":
            b.set_version(values[0])
        else:
            b.set_verifier(values[0])
        check_books(b)


def test_a_trace_too_large_is_dropped_and_disturbs_nothing() -> None:
    b = buffer(4)
    b.add(make(1))
    assert b.add(make(2, length=1000)) == 1
    assert (ids(held(b)), b.dropped) == ([1], 1)


def test_only_what_was_never_sampled_counts_as_dropped() -> None:
    b = buffer(2, recent_share=1.0)
    b.add(make(1))
    b.add(make(2))
    b.sample(2)
    assert b.add(make(3)) == 0
    assert (b.retired, b.dropped) == (1, 0)
    b.add(make(4))
    assert b.add(make(5)) == 1


def test_what_falls_out_of_the_fifo_goes_to_the_reservoir() -> None:
    b = buffer(4)
    for i in range(4):
        b.add(make(i))
    assert sorted(ids(held(b))) == [0, 1, 2, 3]
    assert sorted(h.trace.request_id for h in b._recent) == [2, 3]


def test_the_reservoir_is_a_uniform_sample_of_the_past() -> None:
    """40 traces leave the FIFO, 10 are kept: each with chance 1/4. Chi-square over 200 buffers."""
    traces = [make(i) for i in range(40)]
    kept: Counter[int] = Counter()
    for seed in range(200):
        b = buffer(10, seed, recent_share=0.0)
        for trace in traces:
            b.add(trace)
        kept.update(ids(held(b)))
    assert kept.total() == 200 * 10
    expected = 50
    chi2 = sum((kept[i] - expected) ** 2 for i in range(40)) / (expected * (1 - 1 / 4))
    assert chi2 < 73  # 39 degrees of freedom: 0.999 quantile


def test_a_rare_domain_keeps_its_share_and_stays_uniform_in_time() -> None:
    """Thousandfold chat cannot push out code, and shrinking for code leaves chat a fair sample."""
    b = buffer(20, recent_share=0.0)
    for i in range(200):
        b.add(make(i, "chat"))
    for i in range(10):
        b.add(make(1000 + i, "code"))
    assert b.domains() == {"chat": 10, "code": 10}
    for i in range(200, 400):
        b.add(make(i, "chat"))
    assert b.domains() == {"chat": 10, "code": 10}
    early = sum(i < 200 for i in ids(held(b)))
    assert 1 <= early <= 9


def test_room_that_a_rare_domain_does_not_fill_is_used() -> None:
    b = buffer(20, recent_share=0.0)
    b.add(make(0, "code"))
    for i in range(100):
        b.add(make(1 + i, f"chat-{i % 2}"))
    assert len(b) == 20
    assert b.domains()["code"] == 1


def first_drawn(b: ReplayBuffer, n: int, draws: int, **given: object) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(draws):
        found.update(trace.domain for trace in b.sample(n, **given))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("priority", "low", "high"), [(0.0, 0.45, 0.55), (1.0, 0.93, 0.98)])
def test_priority_prefers_traces_with_rejections(priority: float, low: float, high: float) -> None:
    """Weights 1.05 and 0.05 under priority 1: 95 of 100."""
    b = buffer(100, priority=priority)
    for i in range(40):
        b.add(make(i, accepted=(0, 0) if i % 2 else (3, 3)))
    drawn = [b.sample(1)[0].request_id % 2 for _ in range(1000)]
    assert low < np.mean(drawn) < high


def test_priority_does_not_change_the_mix_of_domains() -> None:
    b = buffer(100, priority=1.0)
    for i in range(40):
        b.add(make(i, "hard" if i % 2 else "easy", accepted=(0, 0) if i % 2 else (3, 3)))
    assert 420 < first_drawn(b, 1, 1000)["hard"] < 580


def test_domain_weights_are_honoured() -> None:
    b = buffer(200, recent_share=0.5)
    for i in range(160):
        b.add(make(i, "ab"[i % 2]))
    drawn = first_drawn(b, 8, 200, domains={"a": 3.0, "b": 1.0})
    assert 0.70 < drawn["a"] / drawn.total() < 0.80
    assert first_drawn(b, 8, 50, domains={"a": 0.0})["a"] == 0, "an unnamed domain weighs 1"
    assert first_drawn(b, 8, 50, domains={"a": 0.0, "b": 0.0})["a"] > 100, "nothing left: as they arrive"


def test_a_domain_with_weight_is_drawn_until_it_is_used_up_and_no_further() -> None:
    b = buffer(50)
    for i in range(20):
        b.add(make(i, "rare" if i < 3 else "chat"))
    assert Counter(t.domain for t in b.sample(10, {"rare": 1e6, "chat": 1e-6})) == {"rare": 3, "chat": 7}
    assert len(b.sample(10, {"rare": 1.0, "chat": 0.0})) == 3


def test_the_replay_share_of_a_batch_comes_from_the_reservoirs() -> None:
    b = buffer(40, replay_share=0.3)
    for i in range(40):
        b.add(make(i, "old" if i < 20 else "new"))
    drawn = first_drawn(b, 5, 400)
    assert 0.27 < drawn["old"] / drawn.total() < 0.33


def test_the_share_is_filled_from_either_side() -> None:
    b = buffer(40, recent_share=0.1)
    for i in range(40):
        b.add(make(i))
    assert len(set(ids(b.sample(40)))) == 40
    assert len(b.sample(41)) == 40


def test_fresh_places_go_to_the_oldest_unsampled() -> None:
    b = buffer(10, recent_share=1.0)
    for i in range(6):
        b.add(make(i))
    assert sorted(ids(b.sample(2, fresh=2))) == [0, 1]
    assert {2, 3} <= set(ids(b.sample(3, fresh=2)))


def test_once_gives_each_trace_once_in_order() -> None:
    b = buffer(5, once=True)
    for i in range(7):
        b.add(make(i, "ab"[i % 2]))
    assert b.dropped == 2
    assert ids(b.sample(3)) == [2, 3, 4]
    assert ids(b.sample(3)) == [5, 6]
    assert b.sample(3) == []
    assert (len(b), b.nbytes, b.retired) == (0, 0, 5)


def test_once_with_weights_keeps_the_order_within_the_choice() -> None:
    b = buffer(20, once=True)
    for i in range(10):
        b.add(make(i, "ab"[i % 2]))
    assert ids(b.sample(3, {"a": 1.0, "b": 0.0})) == [0, 2, 4]
    assert ids(b.sample(9)) == [1, 3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("once", [False, True])
def test_a_new_verifier_voids_all_older_traces(once: bool) -> None:
    b = buffer(6, once=once)
    for i in range(6):
        b.add(make(i))
    b.set_verifier(1)
    assert (len(b), b.nbytes, b.stale, b.dropped) == (0, 0, 6, 0)
    assert b.add(make(6)) == 0
    assert (len(b), b.stale) == (0, 7)
    b.add(make(7, verifier=2))  # proves that there is a newer one still
    b.add(make(8, verifier=1))
    b.set_verifier(1)
    assert ids(held(b)) == [7]


def test_old_drafters_are_evicted_by_lag_and_a_rollback_is_possible() -> None:
    b = buffer(10, max_version_lag=1)
    for version in range(4):
        b.set_version(version)
        b.add(make(version, drafter=version))
    assert sorted(ids(held(b))) == [2, 3]
    b.set_version(0)
    b.add(make(9, drafter=0))
    assert sorted(ids(held(b))) == [2, 3, 9]


def test_token_counts_are_of_recent_outputs() -> None:
    b = buffer(4, recent_share=0.5)
    assert b.token_counts(10).tolist() == [0] * 10
    for i in range(4):
        b.add(make(i))
    counts = b.token_counts(12)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0], "two recent traces, prompts left out"
    with pytest.raises(InputError, match="token 7 is outside"):
        b.token_counts(7)


@pytest.mark.parametrize(("dtype", "each"), [("float32", 4), ("bfloat16", 2), ("float8_e4m3fn", 1)])
def test_hidden_states_cost_what_the_dtype_says(dtype: str, each: int) -> None:
    b = buffer(100, dtype=getattr(torch, dtype))
    trace = make(length=50)
    b.add(trace)
    states = trace.fused.numel() + trace.last.numel() + trace.branch_last.numel()
    assert trace.nbytes - b.nbytes == states * (4 - each)
    assert b.sample(1)[0].last.dtype == getattr(torch, dtype)


def test_a_view_does_not_keep_its_base_alive() -> None:
    base = torch.zeros(1000, HIDDEN)
    whole = make()
    trace = owned(replace(whole, last=base[:8]))
    assert trace.last.untyped_storage().nbytes() == 8 * HIDDEN * 4
    assert trace.fused is whole.fused


def test_rejections_leave_out_steps_that_drafted_less() -> None:
    short = replace(make(accepted=(1, 2, 0)), drafted=torch.tensor([[5, -1, -1], [5, 6, 7], [-1, -1, -1]]))
    assert rejections(short) == pytest.approx(1 / 3)
    assert rejections(make(accepted=())) == 0.0


@pytest.mark.parametrize("once", [False, True])
def test_the_same_generator_gives_the_same_draws(once: bool) -> None:
    def run(seed: int) -> list[list[int]]:
        b = buffer(12, seed, once=once)
        drawn = []
        for i in range(60):
            b.add(make(i, "abc"[i % 3]))
            if i % 5 == 4:
                drawn.append(ids(b.sample(4, {"a": 2.0}, fresh=1)))
        return drawn

    assert run(3) == run(3)
    assert run(3) != run(4)


@pytest.mark.parametrize(
    "wrong",
    [{"recent_share": 1.5}, {"replay_share": float("nan")}, {"priority": -1.0}, {"max_version_lag": -1}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        BufferSettings(**wrong)  # type: ignore[arg-type]


def test_wrong_arguments_are_refused() -> None:
    b = buffer(3)
    b.add(make())
    for n, fresh in ((0, 0), (2, 3), (2, -1)):
        with pytest.raises(InputError, match="needs n >= 1"):
            b.sample(n, fresh=fresh)
    with pytest.raises(InputError, match="must be finite"):
        b.sample(1, {"chat": -1.0})
    with pytest.raises(InputError, match="at least 1"):
        ReplayBuffer(0, np.random.default_rng(0))
