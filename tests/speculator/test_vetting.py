"""Faults that must never serve: broken weights, shuffled rows, a stale map, one tenant's poison."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from harness.errors import InputError  # noqa: E402
from harness.speculator import checkpoint  # noqa: E402
from harness.speculator.checkpoint import (  # noqa: E402
    broken,
    fingerprint,
    load_into,
    snapshot,
)
from harness.speculator.judge import Judge, Score, pooled, walk  # noqa: E402
from harness.speculator.learner import Learner  # noqa: E402
from harness.speculator.settings import LearnerSettings  # noqa: E402
from harness.speculator.vetting import paired_loss, vet  # noqa: E402
from harness.speculator.vocabulary import DraftVocabulary  # noqa: E402
from tests.speculator import micro  # noqa: E402


@pytest.fixture(scope="module")
def judged():
    head = micro.head()
    groups = {("math", "t"): micro.traces("math", 8), ("sql", "t"): micro.traces("sql", 8)}
    return snapshot(head), Judge(micro.head(), 3), groups


def changed(found, name, weight):
    """The snapshot with another weight, as an attacker or a bug would write it: fingerprint recomputed."""
    weights = {**found.weights, name: weight}
    return replace(found, weights=weights, weights_print=fingerprint(weights))


def test_what_serves_passes_its_own_vetting(judged):
    serving, judge, groups = judged
    assert vet(serving, serving, judge, groups, 0.1).ok


def test_a_weight_that_is_not_a_number_is_caught(judged):
    serving, judge, groups = judged
    assert "finite" in vet(broken(serving), serving, judge, groups, 0.1).reason


def test_a_weight_of_another_shape_is_caught(judged):
    serving, judge, groups = judged
    candidate = changed(serving, "norm.weight", serving.weights["norm.weight"][:-1])
    assert "shape" in vet(candidate, serving, judge, groups, 0.1).reason


def test_shuffled_rows_are_caught_by_held_out_text(judged):
    serving, judge, groups = judged
    rows = serving.weights["lm_head.weight"]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    verdict = vet(changed(serving, "lm_head.weight", rows[order]), serving, judge, groups, 0.1)
    assert "held-out" in verdict.reason


def test_a_stale_vocabulary_map_is_caught(judged):
    """The weights of one map under another: every row means another token."""
    serving, judge, groups = judged
    ids = serving.vocabulary.ids
    other = DraftVocabulary(
        torch.cat([torch.tensor([0]), ids[ids > 0][:-1]]).unique(), serving.vocabulary.target_size
    )
    assert "vocabulary" in vet(replace(serving, vocabulary=other), serving, judge, groups, 0.1).reason


def test_a_damaged_file_never_loads(judged, tmp_path):
    serving, _, _ = judged
    path = tmp_path / "w.safetensors"
    checkpoint.save(serving, path)
    assert checkpoint.load(path).consistent
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load(path)
    path.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(InputError, match="not a drafter checkpoint"):
        checkpoint.load(path)


def test_the_poison_of_one_tenant_does_not_reach_the_others():
    """One customer's traces carry wrong target states; what is learnt from them is refused and undone."""
    settings = LearnerSettings(
        objectives={"forward_kl": 1.0}, lr=3e-3, depth=3, reuse=50.0, heldout_share=0.3, eval_k=3
    )
    learner = Learner(micro.head(), micro.pools().target(0).head, settings, seed=0)
    good = learner.candidate()
    for trace in micro.traces("math", 12):
        learner.add(replace(trace, tenant="honest"))
        learner.heldout.add(replace(trace, tenant="honest"))
    head = micro.pools().target(0).head
    wrong = 50.0 * head[7] / head[7].norm() ** 2  # states that say: token 7, always
    for trace in micro.traces("math", 48, first=12):
        learner.add(replace(trace, tenant="mallory", last=wrong.expand_as(trace.last)))
    assert {t for _, t in learner.present_groups()} == {"honest", "mallory"}
    for _ in range(40):
        learner.step()
    verdict = learner.vet(learner.candidate(), good)
    assert "honest" in verdict.reason
    assert verdict.undo
    assert len(learner.quarantined) == 1
    assert learner.candidate().weights_print == good.weights_print


def test_a_gain_for_most_may_be_withheld_but_is_not_undone():
    """Two groups, one gains more than the other loses: no candidate, and training goes on from there."""

    serving, candidate = snapshot(micro.head()), snapshot(micro.head())
    new, old = id(candidate), id(serving)
    judge = SimpleNamespace(
        scores=lambda weights, traces: [Score(int(10 * t[id(weights)]), 10) for t in traces]
    )
    winners, losers = [{old: 2.0, new: 3.0}] * 5, [{old: 2.0, new: 1.5}] * 5
    verdict = vet(candidate, serving, judge, {("a", "t"): winners, ("b", "t"): losers}, 0.25)
    assert "b/t" in verdict.reason
    assert not verdict.undo
    assert vet(candidate, serving, judge, {("b", "t"): losers}, 0.25).undo
    assert vet(candidate, serving, judge, {("b", "t"): losers[:3]}, 0.25).ok  # too few to judge


def test_what_the_traffic_that_left_loses_undoes_nothing():
    """Right after a shift only the old domain can be judged, and it is what training moves away from."""
    serving, candidate = snapshot(micro.head()), snapshot(micro.head())
    new, old = id(candidate), id(serving)
    judge = SimpleNamespace(
        scores=lambda weights, traces: [Score(int(10 * t[id(weights)]), 10) for t in traces]
    )
    groups = {("left", "t"): [{old: 2.0, new: 1.5}] * 5}
    for share, undone in ((0.2, False), (0.6, True)):
        shares = {("left", "t"): share, ("new", "t"): 1.0 - share}
        verdict = vet(candidate, serving, judge, groups, 0.25, shares)
        assert (verdict.ok, verdict.undo) == (False, undone)


def test_a_walk_counts_the_steps_that_a_server_would_need():
    accepted = [2, 0, 0, 1, 0, 0, 0]
    assert walk(accepted, 0, 9) == Score(tokens=7, steps=4)  # 3 + 2 + 1 + 1


def test_paired_loss_is_the_mean_difference_with_its_error():
    new, old = [Score(3, 2), Score(4, 2)], [Score(4, 2), Score(6, 2)]
    loss, error, now = paired_loss(new, old)
    assert (loss, now) == (0.75, 2.5)
    assert error == pytest.approx(0.25)


def test_pooling_weighs_by_steps():
    assert pooled([Score(10, 10), Score(9, 3)]).length == pytest.approx(19 / 13)


def test_weights_of_another_shape_do_not_load():
    found = snapshot(micro.head())
    with pytest.raises(InputError, match=r"norm\.weight"):
        load_into(micro.head(), changed(found, "norm.weight", torch.ones(3)))
