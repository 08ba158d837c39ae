"""Which requests are traced, and what comes to nothing."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fake_runner import labelled, request  # noqa: E402
from tap_bench import PROMPT, Bench  # noqa: E402

from harness.live import assemble  # noqa: E402
from harness.live import tap as tapping  # noqa: E402
from harness.live.labels import TRACE  # noqa: E402
from harness.live.tap import TOGETHER  # noqa: E402


@pytest.fixture(params=[1, TOGETHER])
def bench(request):
    """A record of every step by itself, and of several."""
    with Bench(together=request.param) as found:
        yield found


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


def test_a_hole_voids_the_trace():
    with Bench(together=1) as bench:
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
    with Bench(traces_bytes=2000, together=1) as bench:
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
    with Bench(traces_bytes=1000, together=1) as bench:
        one = request("a", PROMPT, **labelled(1))
        bench.runner.step((one, 5))
        while bench.link.traces.put(99, b""):
            pass
        bench.tap.ended(["a"])
        assert list(bench.assembler.feed(bench.link.traces.take())) == []
        bench.runner.step((request("b", PROMPT), 5))
        (trace,) = bench.assembler.feed(bench.link.traces.take())
        bench.check(one, trace)


def test_small_steps_are_told_together_and_an_end_waits_for_none():
    with Bench(together=8) as bench:
        one = request("a", PROMPT, **labelled(1))
        bench.runner.step((one, 5))
        for _ in range(13):
            bench.runner.step((one, 1))
        (trace,) = bench.assembler.feed(records := [*bench.link.traces.take(), *_ended(bench, one)])
        kinds = [kind for kind, _ in records]
        # 5 + 3, 8, and the 2 that its end does not wait for others to join
        rows = [tapping.TRACE_ROWS] * 3
        assert kinds == [tapping.TRACE_BEGIN, *rows, tapping.TRACE_END]
        bench.check(one, trace)


def test_what_was_seen_together_is_given_up_together():
    with Bench(together=12) as bench:
        served = [request(f"r{i}", PROMPT, **labelled(i)) for i in range(2)]
        bench.runner.step(*((one, 5) for one in served))
        while bench.link.traces.put(99, b""):
            pass
        bench.runner.step(*((one, 1) for one in served))
        assert not bench.tap.error
        assert not bench.tap._seen
        list(bench.link.traces.take())
        bench.runner.step(*((one, 1) for one in served))
        records = [*bench.link.traces.take(), *_ended(bench, *served)]
        assert [int.from_bytes(c, "little", signed=True) for _, c in records] == [-1, -2]


def _ended(bench, *served):
    bench.tap.ended([one.name for one in served])
    return bench.link.traces.take()


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
