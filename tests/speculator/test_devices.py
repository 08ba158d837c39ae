"""The learner beside a GPU: nothing of the CPU's meets what lies there, and what is learned is the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from harness.contract import TrainPlan  # noqa: E402
from harness.speculator.drafters.registry import make_drafter  # noqa: E402
from harness.speculator.learner import Learner  # noqa: E402
from harness.speculator.settings import learner  # noqa: E402
from harness.speculator.traces import Trace  # noqa: E402
from harness.speculator.vocabulary import DraftVocabulary  # noqa: E402
from tests.speculator import micro  # noqa: E402
from tests.speculator.elsewhere import Far, WrongDevice, elsewhere  # noqa: E402


def with_branches(trace: Trace) -> Trace:
    """The same with states behind its rejected drafts."""
    rejected = (trace.accepted < trace.drafted.shape[1]).nonzero()[:, 0]
    width = trace.last.shape[1]
    states = torch.randn(
        len(rejected),
        trace.drafted.shape[1],
        width,
        generator=torch.Generator().manual_seed(trace.request_id),
    )
    return replace(trace, branch=rejected, branch_last=states.to(trace.last.dtype))


def learned(kind: str, device=None, objectives=None) -> Learner:
    """Some steps, candidates, a verdict, a re-chosen vocabulary and a new verifier on the way."""
    target = micro.pools().target(0)
    few = DraftVocabulary(torch.arange(100), target.config.vocab_size)  # to be chosen anew
    drafter = make_drafter(kind, target, few, 0)
    head, settings = target.head, replace(learner("default"), checkpoint_steps=4, coverage=1.0, warmup=0)
    if objectives:
        settings = replace(settings, objectives=objectives, branches=2)
    if device is not None:
        drafter, head = drafter.to(device), head.to(device)
    found = Learner(drafter, head, settings, seed=0, fresh=True)
    static = found.static
    for domain in ("sql", "code"):
        for trace in micro.traces(domain, 24):
            found.add(with_branches(trace))
        for _ in range(8):
            assert found.ready()
            found.step(TrainPlan(on=True))
        found.vet(found.candidate(), static)
        found.judge.lengths(found.candidate(), found.present_groups())
        found.set_verifier(found.verifier_version, target.head, target.embedding)
    return found


@pytest.mark.parametrize("kind", ["eagle3", "llama", "medusa"])
def test_a_learner_elsewhere_learns_the_same(kind: str) -> None:
    here = learned(kind)
    with elsewhere() as device:
        there = learned(kind, device)
        assert all(isinstance(p, Far) for p in there.drafter.parameters())
        mine, theirs = here.candidate(), there.candidate()
    assert mine.vocabulary_print == theirs.vocabulary_print
    for name, weight in mine.weights.items():
        assert type(theirs.weights[name]) is torch.Tensor
        torch.testing.assert_close(theirs.weights[name], weight, rtol=1e-4, atol=1e-5)


def test_the_way_without_logits_is_on_the_device_too(monkeypatch) -> None:
    """But for the kernel itself, which wants a real one."""
    monkeypatch.setattr("harness.speculator.learner.FUSED_VOCABULARY", 1)
    monkeypatch.setattr("harness.speculator.fused.on_gpu", lambda x: False)
    here = learned("eagle3").candidate()
    with elsewhere() as device:
        there = learned("eagle3", device).candidate()
    for name, weight in here.weights.items():
        torch.testing.assert_close(there.weights[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["discard", "reverse_kl", "total_variation", "log_acceptance"])
def test_every_objective_is_on_the_device(objective: str) -> None:
    with elsewhere() as device:
        learned("eagle3", device, {objective: 1.0, "forward_kl": 0.1})


def test_the_device_that_is_not_there_notices() -> None:
    with elsewhere() as device:
        far, near = torch.ones(3).to(device), torch.ones(3)
        for meet in (lambda: far + near, lambda: torch.cat([near, far]), lambda: near[far.long()]):
            with pytest.raises(WrongDevice):
                meet()
        assert type((far + far).cpu()) is torch.Tensor
        assert isinstance(torch.arange(2, device=device) + 1, Far)
        assert (far * 2)[torch.tensor([0, 1])].tolist() == [2.0, 2.0]
