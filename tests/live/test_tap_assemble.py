"""From verify steps to traces: whatever the serving history, a trace is what its text says it must be, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from fake_runner import VOCAB, Served, expected, labelled, request  # noqa: E402
from tap_bench import PROMPT, Bench, same  # noqa: E402

from harness.live.tap import TOGETHER  # noqa: E402


@pytest.fixture(params=[1, TOGETHER])
def bench(request):
    """A record of every step by itself, and of several."""
    with Bench(together=request.param) as found:
        yield found


# --- histories ---------------------------------------------------------------------------------


def test_a_plain_life(bench):
    """A prompt in two chunks; K = 3 with none, some and all accepted; a step without drafts."""
    one = request("a", PROMPT, **labelled(7))
    assert bench.runner.step((one, 3)) == "the drafts"
    bench.runner.step((one, 2))
    for right in (0, 2, 3, 1):
        bench.runner.step((one, bench.runner.drafts(one, 3, right)))
    bench.runner.step((one, 1))
    assert bench.runner.proposals == 7
    (trace,) = bench.end(one)
    assert trace.prompt_tokens == 5
    assert trace.at.tolist() == [4, 5, 8, 12]
    assert trace.accepted.tolist() == [0, 2, 3, 1]
    assert len(trace) == 5 + 1 + 1 + 3 + 4 + 2 + 1
    assert trace.branch.tolist() == [0, 1, 3], "the step that accepted all has nothing to tell of rejections"
    bench.check(one, trace)


@pytest.mark.parametrize("together", [1, TOGETHER])
def test_of_an_independent_drafter_the_last_state_is_all_there_is(together):
    with Bench(together=together, fused=False) as bench:
        one, two = request("a", PROMPT, **labelled(7)), request("b", PROMPT[:3])
        bench.runner.step((one, 5), (two, 3))
        for right in (0, 2, 3):
            bench.runner.step((one, bench.runner.drafts(one, 3, right)), (two, 1))
        for served, trace in zip((one, two), bench.end(one, two), strict=True):
            whole = expected(served, bench.brain, branches=bench.branches)
            assert trace.fused.shape == (len(trace), 0)
            same(trace, replace(whole, fused=trace.fused))


def test_traces_follow_the_index_convention(bench):
    """Written out for one step: the draft at depth j is for token p + 2 + j, judged by the state at p + 1 + j."""
    one = request("a", PROMPT)
    bench.runner.step((one, 5))
    drafts = bench.runner.drafts(one, 3, 1)
    bench.runner.step((one, drafts))
    (trace,) = bench.end(one)
    (p,) = trace.at.tolist()
    assert trace.tokens[p + 2] == drafts[0]
    assert trace.tokens[p + 3] != drafts[1], "depth 1 was rejected: the text says what the target says"
    states = torch.cat([trace.fused, trace.last], -1).float()
    assert bench.brain.choice(states[p + 1 : p + 3]) == trace.tokens[p + 2 : p + 4].tolist()
    behind = bench.brain.states([*trace.tokens[: p + 2].tolist(), *drafts])[p + 2 :, 12:]
    assert torch.equal(trace.branch_last[0].float(), behind)


def test_fewer_drafts_than_before_are_padded_and_their_branches_left_out(bench):
    one = request("a", PROMPT)
    bench.runner.step((one, 5))
    for k, right in ((2, 0), (4, 1), (1, 0), (4, 4)):
        bench.runner.step((one, bench.runner.drafts(one, k, right)))
    (trace,) = bench.end(one)
    assert (trace.drafted >= 0).sum(-1).tolist() == [2, 4, 1, 4]
    assert trace.branch.tolist() == [1]
    bench.check(one, trace)


def test_a_batch_of_several_requests_in_changing_places(bench):
    a, b, c = (request(n, PROMPT[: i + 2], **labelled(i)) for i, n in enumerate("abc"))
    step, drafts = bench.runner.step, bench.runner.drafts
    step((a, 2), (b, 2))
    step((b, 1), (a, drafts(a, 2, 1)), (c, 1))
    step((c, 3), (a, drafts(a, 3, 3)), (b, drafts(b, 1, 0)))
    step((b, 1), (c, drafts(c, 3, 0)))
    found = bench.end(a)
    step((c, drafts(c, 3, 2)), (b, 1))
    found += bench.end(c, b)
    assert [t.request_id for t in found] == [0, 2, 1]
    for served, trace in zip((a, c, b), found, strict=True):
        bench.check(served, trace)


def test_preemption_and_recomputation_leave_no_mark(bench):
    """What was known is computed again, in chunks whose sampled token vLLM discards."""
    one = request("a", PROMPT)
    bench.runner.step((one, 5))
    bench.runner.step((one, bench.runner.drafts(one, 3, 2)))
    bench.runner.preempt(one)
    for n in (4, 3, one.left - 7):
        bench.runner.step((one, n))
    bench.runner.step((one, bench.runner.drafts(one, 3, 0)))
    (trace,) = bench.end(one)
    assert VOCAB - 1 not in trace.tokens.tolist()
    bench.check(one, trace)


def test_a_cached_prefix_is_left_out(bench):
    """Its states were never computed for this request: the trace begins behind it."""
    one = request("a", PROMPT, cached=2, **labelled(1))
    bench.runner.step((one, 3))
    bench.runner.step((one, bench.runner.drafts(one, 2, 1)))
    (trace,) = bench.end(one)
    assert trace.prompt_tokens == 3
    bench.check(one, trace, cached=2)


def test_the_text_ends_behind_its_end_token():
    """Tokens that a verify step accepted behind it were never given out."""
    with Bench() as probe:
        text = request("x", PROMPT)
        probe.runner.step((text, 5))
        ahead = probe.runner.ahead(text, 6)
    eos = ahead[3]
    assert eos not in (*PROMPT, *ahead[:3], text.tokens[-1])
    with Bench(eos=eos) as bench:
        one = request("a", PROMPT)
        bench.runner.step((one, 5))
        bench.runner.step((one, bench.runner.drafts(one, 2, 1)))
        bench.runner.step((one, bench.runner.drafts(one, 4, 4)))
        bench.runner.step((one, bench.runner.drafts(one, 2, 0)))
        (trace,) = bench.end(one)
        assert trace.tokens[-1] == eos
        assert len(trace) == 5 + 1 + 4
        assert len(trace.at) == 2
        bench.check(one, trace)


def test_an_end_token_of_the_prompt_ends_nothing():
    with Bench(eos=PROMPT[2]) as bench:
        one = request("a", PROMPT)
        bench.runner.step((one, 5))
        bench.runner.step((one, bench.runner.drafts(one, 2, 2)))
        (trace,) = bench.end(one)
        assert len(trace) == 5 + 1 + 3


def test_sampled_tokens_may_come_as_lists():
    with Bench(padded=False) as bench:
        one, two = request("a", PROMPT, **labelled(1)), request("b", PROMPT[:3], **labelled(2))
        bench.runner.step((one, 2), (two, 3))
        bench.runner.step((one, 3), (two, bench.runner.drafts(two, 3, 1)))
        bench.runner.step((one, bench.runner.drafts(one, 2, 2)), (two, 1))
        found = bench.end(one, two)
        assert len(found) == 2
        for served, trace in zip((one, two), found, strict=True):
            bench.check(served, trace)


moves = st.one_of(
    st.none(),
    st.just("preempt"),
    st.integers(1, 6),
    st.tuples(st.integers(1, 4), st.integers(0, 4)),
)


@settings(max_examples=60, deadline=None)
@given(history=st.lists(st.tuples(moves, moves, moves), min_size=1, max_size=14), padded=st.booleans())
def test_any_history_gives_the_trace_of_its_text(history, padded):
    with Bench(padded=padded) as bench:
        served = [request(n, PROMPT[i:], **labelled(i)) for i, n in enumerate("abc")]
        for step in history:
            work = [(s, what) for s, m in zip(served, step, strict=True) if (what := _what(bench, s, m))]
            if work:
                bench.runner.step(*work)
        found = {t.request_id: t for t in bench.end(*served)}
        for i, one in enumerate(served):
            assert (i in found) == (len(one.tokens) > one.prompt_tokens), "a trace comes of any output at all"
            if i in found:
                bench.check(_as_traced(one), found[i])
        assert bench.assembler.incomplete == sum(
            len(s.tokens) == s.prompt_tokens and s.name in bench.runner.requests for s in served
        )


def _what(bench: Bench, served: Served, move) -> int | list[int] | None:
    if move == "preempt":
        bench.runner.preempt(served)
        return None
    if isinstance(move, tuple) and served.left == 1:
        return bench.runner.drafts(served, move[0], min(move))
    most = move if isinstance(move, int) else served.left
    return None if move is None else min(most, served.left)


def _as_traced(served: Served) -> Served:
    """A preempted request's states are gone from the server, but they were traced."""
    return replace(served, computed=len(served.tokens) - 1)
