"""From verify steps to traces: whatever the serving history, a trace is what its text says it must be, or none."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from fake_runner import VOCAB, FakeRunner, HashBrain, Served, expected, labelled, request  # noqa: E402

from harness.live import assemble  # noqa: E402
from harness.live import tap as tapping  # noqa: E402
from harness.live.assemble import Assembler  # noqa: E402
from harness.live.labels import TRACE  # noqa: E402
from harness.live.link import Link  # noqa: E402
from harness.live.tap import Tap  # noqa: E402
from harness.speculator.learner import Learner  # noqa: E402
from harness.speculator.settings import LearnerSettings  # noqa: E402
from harness.speculator.traces import Trace  # noqa: E402
from tests.speculator import micro  # noqa: E402

PROMPT = [5, 9, 20, 31, 7]


class Bench:
    """A runner, its tap, the ring and an assembler."""

    def __init__(self, traces_bytes: int = 1 << 20, branches: int = 3, eos: int | None = None, **runner):
        self.link = Link.create(traces_bytes)
        self.link.control.set("sample", 1.0)
        self.brain = runner.pop("brain", None) or HashBrain()
        self.runner = FakeRunner(self.brain, **runner)
        self.tap = Tap(self.runner, self.link)
        self.assembler = Assembler(eos, branches)
        self.branches = branches
        self.eos = eos

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.remove()

    def end(self, *served: Served) -> list[Trace]:
        """These requests are over; the traces that come of it."""
        self.tap.ended([s.name for s in served])
        assert not self.tap.error
        return list(self.assembler.feed(self.link.traces.take()))

    def check(self, served: Served, trace: Trace, **more) -> None:
        same(trace, expected(served, self.brain, branches=self.branches, eos=self.eos, **more))


@pytest.fixture
def bench():
    with Bench() as found:
        yield found


def same(found: Trace, wanted: Trace) -> None:
    for field in fields(Trace):
        left, right = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(right, torch.Tensor):
            assert left.dtype == right.dtype, field.name
            assert left.shape == right.shape, field.name
            assert torch.equal(left, right), field.name
        else:
            assert left == right, field.name


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


# --- who is traced -----------------------------------------------------------------------------


def test_who_opted_out_is_not_traced(bench):
    one, two = request("a", PROMPT, **labelled(1, trace=0)), request("b", PROMPT, **labelled(2))
    for _ in range(2):
        bench.runner.step((one, one.left), (two, two.left))
    (trace,) = bench.end(one, two)
    assert trace.request_id == 2
    bench.check(two, trace)
    assert bench.assembler.incomplete == 0
    assert one.labels[TRACE] == 0


def test_a_client_without_labels_is_traced_as_unknown(bench):
    one = request("a", PROMPT)
    bench.runner.step((one, 5))
    (trace,) = bench.end(one)
    assert (trace.domain, trace.tenant, trace.request_id) == ("unknown", "unknown", -1)


def test_half_of_the_requests(bench):
    """Drawn by the request's name when it is first seen, and kept to."""
    bench.link.control.set("sample", 0.5)
    served = [request(f"request-{i}", PROMPT[:2]) for i in range(200)]
    for i, one in enumerate(served):
        bench.link.control.set("sample", 0.5)
        bench.runner.step((one, 2))
        bench.link.control.set("sample", float(i % 2))
        bench.runner.step((one, 1))
    found = bench.end(*served)
    assert 70 <= len(found) <= 130
    assert {len(t) for t in found} == {4}, "none was begun or left half way"


def test_nobody_is_traced_at_a_share_of_zero(bench):
    bench.link.control.set("sample", 0.0)
    one = request("a", PROMPT)
    bench.runner.step((one, 5))
    assert bench.end(one) == []
    assert bench.link.traces.written == 0


def test_versions_are_those_in_service(bench):
    bench.link.control.set("drafter_version", 3)
    bench.link.control.set("verifier_version", 2)
    one = request("a", PROMPT)
    bench.runner.step((one, 5))
    bench.link.control.set("drafter_version", 4)
    bench.runner.step((one, 1))
    (trace,) = bench.end(one)
    assert (trace.drafter_version, trace.verifier_version) == (4, 2)


# --- traces that come to nothing ---------------------------------------------------------------


def test_a_target_that_changed_on_the_way_voids_the_trace(bench):
    one, two = request("a", PROMPT), request("b", PROMPT)
    bench.runner.step((one, 5))
    bench.link.control.set("verifier_version", 1)
    bench.runner.step((one, 1), (two, 5))
    (trace,) = bench.end(one, two)
    assert trace.verifier_version == 1
    assert bench.assembler.incomplete == 1


def test_a_hole_voids_the_trace(bench):
    one, two = request("a", PROMPT), request("b", PROMPT)
    bench.runner.step((one, 5), (two, 5))
    records = list(bench.link.traces.take())
    bench.runner.step((one, 1), (two, 1))
    kept = [r for r in bench.link.traces.take() if r[0] != tapping.TRACE_ROWS]
    bench.runner.step((two, 1))
    bench.tap.ended(["b"])
    found = list(bench.assembler.feed([*records, *kept, *bench.link.traces.take()]))
    assert found == []
    assert bench.assembler.incomplete == 1


def test_a_request_without_output_teaches_nothing(bench):
    one = request("a", PROMPT)
    bench.runner.step((one, 3))
    assert bench.end(one) == []
    assert bench.assembler.incomplete == 1


def test_a_full_ring_gives_requests_up_and_says_so():
    """Nothing half comes out, the trainer hears of each one, and what comes later is traced again."""
    with Bench(traces_bytes=2000) as bench:
        served = [request(f"r{i}", PROMPT, **labelled(i)) for i in range(5)]
        for one in served:
            bench.runner.step((one, 5))
        bench.tap.ended(["r0"])
        for _ in range(3):
            bench.runner.step(*((one, 1) for one in served[1:]))
        assert bench.link.traces.dropped == 1, "from then on it does not even try"
        records = list(bench.link.traces.take())
        assert sum(kind == tapping.TRACE_BEGIN for kind, _ in records) == 5
        bench.tap.ended([one.name for one in served])
        records += bench.link.traces.take()
        ends = [int.from_bytes(c, "little", signed=True) for k, c in records if k == tapping.TRACE_END]
        assert ends == [1, -2, -3, -4, -5]
        (trace,) = bench.assembler.feed(records)
        bench.check(served[0], trace)
        assert bench.assembler.incomplete == 4
        assert not bench.assembler._open, "what came of a request before is not kept for ever"
        late = request("late", PROMPT, **labelled(9))
        bench.runner.step((late, 5))
        bench.runner.step((late, 1))
        (trace,) = bench.end(late)
        bench.check(late, trace)


def test_an_end_that_finds_no_room_is_told_later():
    with Bench(traces_bytes=1000) as bench:
        one = request("a", PROMPT, **labelled(1))
        bench.runner.step((one, 5))
        while bench.link.traces.put(99, b""):
            pass
        bench.tap.ended(["a"])
        assert list(bench.assembler.feed(bench.link.traces.take())) == []
        bench.runner.step((request("b", PROMPT), 5))
        (trace,) = bench.assembler.feed(bench.link.traces.take())
        bench.check(one, trace)


def test_requests_that_never_end_are_given_up_oldest_first(bench, monkeypatch):
    monkeypatch.setattr(assemble, "MOST_OPEN", 2)
    served = [request(f"r{i}", PROMPT, **labelled(i)) for i in range(3)]
    for one in served:
        bench.runner.step((one, 5))
    found = bench.end(*served)
    assert [t.request_id for t in found] == [1, 2]
    assert bench.assembler.incomplete == 2, "once when it was given up, once when its end came after all"


def test_a_failure_of_the_tap_stops_the_tap_only(bench):
    one = request("a", PROMPT)
    bench.runner.step((one, 3))
    bench.runner.input_batch.num_computed_tokens_cpu = None
    work = bench.runner._place
    bench.runner._place = lambda *args: None
    assert bench.runner.step((one, 1)) == "the drafts"
    bench.runner._place = work
    assert bench.tap.error.startswith("TypeError")
    written = bench.link.traces.written
    bench.runner.input_batch.num_computed_tokens_cpu = np.zeros(8, np.int32)
    bench.runner.step((one, 1))
    assert bench.link.traces.written == written


# --- a real model ------------------------------------------------------------------------------


class MicroBrain:
    """The micro model."""

    def __init__(self) -> None:
        self._target = micro.pools().target(0)
        self.hidden = self._target.config.hidden_size

    def states(self, tokens) -> torch.Tensor:
        return torch.cat(self._target.states([list(tokens)])[0], -1)

    def choice(self, states: torch.Tensor) -> list[int]:
        return (states[:, 3 * self.hidden :] @ self._target.head.T).argmax(-1).tolist()


@pytest.fixture(scope="module")
def micro_served() -> list[tuple[Served, Trace]]:
    """Four requests of sql, two at a time, through chunks, drafts and a preemption."""
    pool, found = micro.pools().pool(0, "sql"), []
    with Bench(traces_bytes=8 << 20, branches=2, brain=MicroBrain()) as bench:
        for i in range(0, 4, 2):
            pair = [
                request(str(j), pool.text(j)[: int(pool.prompt_tokens[j])].tolist(), **labelled(j, "sql"))
                for j in (i, i + 1)
            ]
            for one in pair:
                bench.runner.step((one, one.left // 2))
            bench.runner.step(*((one, one.left) for one in pair))
            for n in range(6):
                bench.runner.step(
                    *((one, bench.runner.drafts(one, 3, (n + j) % 4)) for j, one in enumerate(pair))
                )
            bench.runner.preempt(pair[0])
            bench.runner.step((pair[0], pair[0].left))
            found += zip(pair, bench.end(*pair), strict=True)
    return found


def test_the_states_are_those_of_the_target_on_the_text(micro_served):
    target, pool = micro.pools().target(0), micro.pools().pool(0, "sql")
    for served, trace in micro_served:
        tokens = trace.tokens.tolist()
        known = pool.text(trace.request_id).tolist()
        n = min(len(tokens), len(known))
        assert tokens[:n] == known[:n], "the text is the target's greedy one"
        ((fused, last),) = target.states([tokens])
        close(trace.fused[:-1], fused[:-1])
        close(trace.last[:-1], last[:-1])
        assert not trace.last[-1].any()
        step = trace.branch
        behind = target.branches(tokens, trace.at[step].tolist(), trace.drafted[step])
        assert len(step) == 2
        close(trace.branch_last, behind)
        assert served.prompt_tokens == trace.prompt_tokens


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal in bfloat16, but for what a batch of another shape may round to the neighbouring number."""
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted.bfloat16(), rtol=2**-7, atol=1e-3)
    assert (found == wanted.bfloat16()).float().mean() > 0.99


def test_verify_steps_say_what_the_drafts_were_worth(micro_served):
    """Accepted are exactly the leading drafts that the text repeats."""
    for _, trace in micro_served:
        for p, drafts, accepted in zip(
            trace.at.tolist(), trace.drafted.tolist(), trace.accepted.tolist(), strict=True
        ):
            text = trace.tokens[p + 2 : p + 2 + len(drafts)].tolist()
            agree = [d == t for d, t in zip(drafts, text, strict=False)]
            assert accepted == (agree.index(False) if False in agree else len(agree))


def test_the_learner_learns_from_them(micro_served):
    settings_ = LearnerSettings(
        objectives={"forward_kl": 1.0, "discard": 0.5}, batch=2, reuse=50.0, depth=3, heldout_share=0.01
    )
    learner = Learner(micro.head(), micro.pools().target(0).head, settings_, 0)
    for _, trace in micro_served:
        learner.add(trace)
    before = learner.candidate().weights_print
    assert learner.ready()
    report = learner.step()
    assert np.isfinite(report.loss)
    assert report.parts.keys() == {"forward_kl", "discard"}
    assert report.parts["discard"] != 0.0, "the states behind rejected drafts are used"
    assert learner.candidate().weights_print != before
