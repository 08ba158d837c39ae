"""Traces of a real model, put together from its verify steps: its states, and a learner that learns from them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fake_runner import Served, labelled, request  # noqa: E402
from tap_bench import Bench  # noqa: E402

from harness.speculator.learner import Learner  # noqa: E402
from harness.speculator.settings import LearnerSettings  # noqa: E402
from harness.speculator.traces import Trace  # noqa: E402
from tests.speculator import micro  # noqa: E402


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
