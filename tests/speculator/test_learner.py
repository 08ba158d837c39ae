"""The learner: it learns, is deterministic, resumes exactly, and n ranks are one rank with n times the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from harness.contract import TrainPlan  # noqa: E402
from harness.errors import UnknownName  # noqa: E402
from harness.speculator import learner as learning  # noqa: E402
from harness.speculator.judge import Judge, pooled  # noqa: E402
from harness.speculator.learner import Learner  # noqa: E402
from harness.speculator.learner_state import load_learner, save_learner  # noqa: E402
from harness.speculator.objectives import OBJECTIVES, combine  # noqa: E402
from harness.speculator.rows import build_rows, can_fuse  # noqa: E402
from harness.speculator.settings import LearnerSettings, learner, learner_names, settings_from  # noqa: E402
from tests.speculator import micro  # noqa: E402

SETTINGS = LearnerSettings(
    objectives={"forward_kl": 1.0}, lr=3e-3, depth=3, reuse=50.0, heldout_share=0.2, eval_k=3, branches=0
)


def new(settings: LearnerSettings = SETTINGS, seed: int = 0) -> Learner:
    return Learner(micro.head(), micro.pools().target(0).head, settings, seed)


def fed(settings: LearnerSettings = SETTINGS, domain: str = "sql", n: int = 40) -> Learner:
    found = new(settings)
    for trace in micro.traces(domain, n):
        found.add(trace)
    return found


def test_it_learns_a_domain_that_its_head_does_not_know():
    found = fed()
    heldout = [t for traces in found.present_groups().values() for t in traces]
    judge = Judge(micro.head(), 3)
    before = pooled(judge.scores(found.candidate(), heldout)).length
    for _ in range(60):
        found.step()
    after = pooled(judge.scores(found.candidate(), heldout)).length
    assert after > before + 0.1


def test_held_out_texts_are_never_trained_on():
    found = fed()
    held = {t.request_id for traces in found.heldout.groups().values() for t in traces}
    assert held
    drawn = {t.request_id for _ in range(40) for t in found.buffer.sample(8)}
    assert not held & drawn


def test_the_same_seed_gives_the_same_weights():
    prints = []
    for _ in range(2):
        found = fed()
        for _ in range(5):
            found.step()
        prints.append(found.candidate().weights_print)
    assert prints[0] == prints[1]


def test_a_resumed_learner_goes_on_exactly(tmp_path):
    """Weights, optimiser state and rate come back; on the same batches both go the same way."""
    falling = replace(SETTINGS, settle=2, warmup=0)
    found = fed(falling)
    for _ in range(4):
        found.step()
    save_learner(found, tmp_path / "state")
    other = fed(falling)
    load_learner(other, tmp_path / "state")
    assert (other.steps, other.samples) == (found.steps, found.samples)
    batch = micro.traces("sql", 8)
    for each in (found, other):
        each.buffer.sample = lambda *args, **kwargs: batch
        each.step()
    assert found.candidate().weights_print == other.candidate().weights_print


def test_a_candidate_is_the_moving_average_of_the_weights():
    found = fed(replace(SETTINGS, average=0.75))
    wanted = {name: w.detach().clone() for name, w in found.drafter.named_parameters()}
    for _ in range(3):
        found.step()
        for name, w in found.drafter.named_parameters():
            wanted[name] += 0.25 * (w.detach() - wanted[name])
    offered = found.candidate().weights
    for name, average in wanted.items():
        torch.testing.assert_close(offered[name], average)
    latest = dict(found.drafter.named_parameters())
    assert any(not torch.equal(offered[name], latest[name]) for name in offered)


def test_without_averaging_a_candidate_is_the_weights_themselves():
    found = fed(replace(SETTINGS, average=0.0))
    found.step()
    offered = found.candidate().weights
    assert all(torch.equal(offered[name], w) for name, w in found.drafter.named_parameters())


def test_traces_are_reused_only_as_often_as_told():
    found = fed(replace(SETTINGS, reuse=1.0))
    steps = 0
    while found.ready():
        found.step()
        steps += 1
    assert steps == found.buffer.seen // SETTINGS.batch


def test_a_new_domain_is_noticed_while_nothing_is_drafted():
    found = new()
    for domain, times in (("math", 4), ("sql", 1)):
        for trace in times * micro.traces(domain, 40):
            none = ("at", "drafted", "accepted", "logq")
            found.add(replace(trace, **{name: getattr(trace, name)[:0] for name in none}))
        assert found.shifts == (domain == "sql")


def test_what_the_held_out_slice_lets_go_is_trained_on():
    settings = replace(SETTINGS, heldout_share=0.5, heldout_per_group=2)
    found = fed(settings, n=30)
    assert len(found.heldout) == 2
    assert found.buffer.seen == 28


@pytest.mark.parametrize("quota_left", [0, 24])
def test_a_shift_allows_its_burst_and_no_arrears(quota_left):
    """What a paused trainer did not do before a shift is not made up for."""
    settings = replace(SETTINGS, reuse=1.0, burst=12, batch=4)
    found = fed(settings, n=40)
    while found.ready() and found._quota() - found.samples > quota_left:
        found.step()
    found.shift()
    before = found.samples
    while found.ready():
        found.step()
    assert found.samples - before == 12


def test_a_drafter_that_begins_from_nothing_hurries_at_once():
    settings = replace(SETTINGS, reuse=1.0, burst=12, batch=4)
    learners = [
        Learner(micro.head(), micro.pools().target(0).head, settings, 0, fresh) for fresh in (False, True)
    ]
    steps = []
    for found in learners:
        for trace in micro.traces("sql", 20):
            found.add(trace)
        while found.ready():
            found.step()
        steps.append(found.steps)
    assert steps[1] == steps[0] + 3


def test_the_first_steps_are_small_where_the_head_knows_something():
    rates = []
    for fresh in (False, True):
        found = Learner(
            micro.head(), micro.pools().target(0).head, replace(SETTINGS, warmup=4), 0, fresh=fresh
        )
        for trace in micro.traces("sql", 20):
            found.buffer.add(trace)
        seen = []
        for _ in range(6):
            found.step()
            seen.append(found.optimiser.param_groups[0]["lr"] / SETTINGS.lr)
        rates.append(seen)
    assert rates == [pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0]), pytest.approx([1.0] * 6)]


def test_the_released_recipe_does_not_follow_the_defaults():
    """The figures of Aurora were made with these."""
    found = learner("aurora")
    assert (found.batch, found.lr, found.warmup, found.checkpoint_steps) == (8, 3e-3, 0, 10)


@pytest.mark.parametrize(
    "name",
    [n for n in learner_names() if n not in ("default", "aurora", "thorough", "medusa", "llama", "ngram")],
)
def test_learners_of_the_ablation_differ_in_the_objective_alone(name):
    found, default = learner(name), learner("default")
    assert found.reuse == 1.0
    assert replace(found, objectives=default.objectives, reuse=default.reuse, branches=0) == default


def test_the_default_of_the_ablation_differs_in_reuse_alone():
    assert replace(learner("forward-kl-next-token"), reuse=learner("default").reuse) == learner("default")


def test_the_released_behaviour_uses_each_trace_once_and_vets_nothing():
    found = fed(replace(learner("aurora"), depth=3))
    while found.ready():
        found.step()
    assert len(found.buffer) < learner("aurora").batch
    assert found.vet(found.candidate(), found.static).ok


@pytest.mark.parametrize(
    "weights",
    [
        {"forward_kl": 2.0},
        {"reverse_kl": 2.0},
        {"next_token": 2.0},
        {"forward_kl": 0.5, "next_token": 1.5, "discard": 0.0},
    ],
)
def test_the_fused_loss_is_the_dense_one(weights, monkeypatch):
    """Same value, same gradients, on traces with verify steps and a pruned vocabulary that lacks some of the text."""
    monkeypatch.setattr(learning, "FUSED_VOCABULARY", 1)
    monkeypatch.setattr(learning, "combine", None)
    found, traces = fed(), micro.traces("sql", 4)
    head = micro.pools().target(0).head
    found.rechoose_vocabulary(torch.arange(len(head)))
    rows = build_rows(found.drafter, head, traces, 3)
    assert bool((rows.token < 0).any())
    dense, shares = combine(rows, weights, SETTINGS.decay)
    expected = torch.autograd.grad(dense, list(found.drafter.parameters()))
    fused, parts = found._loss(traces, weights)
    assert fused.item() == pytest.approx(dense.item(), rel=1e-4)
    assert parts == pytest.approx(shares, rel=1e-4)
    for one, other in zip(
        torch.autograd.grad(fused, list(found.drafter.parameters())), expected, strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_which_objectives_the_kernel_knows_together():
    assert not can_fuse(["forward_kl", "reverse_kl"])
    assert not can_fuse(["forward_kl", "discard"])
    assert can_fuse(learner("default").objectives)


def test_a_plan_overrides_the_objectives():
    found = fed()
    report = found.step(TrainPlan(on=True, objectives={"reverse_kl": 1.0}))
    assert set(report.parts) == {"reverse_kl"}
    with pytest.raises(UnknownName, match="did you mean"):
        found.step(TrainPlan(on=True, objectives={"reverse_kll": 1.0}))


def test_choosing_the_draft_vocabulary_anew_keeps_what_stays():
    """Tokens of the new traffic enter with the target's rows, kept ones keep theirs, drafting goes on."""
    found = fed()
    found.step()
    old, rows = found.drafter.vocabulary.ids.clone(), found.drafter.lm_head.weight.detach().clone()
    missing = torch.tensor([t for t in range(512) if t not in set(old.tolist())])
    counts = torch.zeros(512, dtype=torch.int64)
    counts[missing[:30]] = 5
    assert found.drafter.vocabulary.coverage(counts) == 0.0
    found.rechoose_vocabulary(counts)
    now = found.drafter.vocabulary
    assert now.coverage(counts) == 1.0
    place = {token: i for i, token in enumerate(old.tolist())}
    for i, token in enumerate(now.ids.tolist()):
        row = rows[place[token]] if token in place else micro.pools().target(0).head[token]
        assert torch.equal(found.drafter.lm_head.weight[i], row)
    found.step()
    assert found.candidate().consistent


def test_the_vocabulary_is_chosen_anew_only_when_it_covers_too_little():
    for coverage, changes in ((0.0, False), (0.97, True)):
        found = fed(replace(SETTINGS, coverage=coverage))
        unseen = (~found.drafter.vocabulary.t2d).nonzero()[:9, 0]
        assert not found.fit_vocabulary()  # the micro head covers its own text
        found._outputs.append(unseen.repeat(200))
        assert found.fit_vocabulary() is changes
        assert bool(found.drafter.vocabulary.t2d[unseen].all()) is changes
        assert not found.fit_vocabulary()


def test_a_new_verifier_voids_old_traces():
    found = fed()
    target = micro.pools().target(1)
    found.set_verifier(1, target.head, target.embedding)
    assert len(found.buffer) == 0
    assert found.heldout.groups() == {}
    found.add(micro.traces("sql", 1)[0])
    assert len(found.buffer) == 0


def test_two_ranks_are_one_with_twice_the_batch(tmp_path):
    """Gradients averaged over ranks: gloo on one machine, two processes."""
    import torch.multiprocessing as mp

    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    both = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    assert torch.equal(both[0], both[1])
    head = micro.head()
    first, second = (_loss(head, part) for part in _halves())
    ((first + second) / 2).backward()
    assert torch.allclose(head.fc.weight.grad, both[0], atol=1e-6)


def _loss(head, traces):
    return combine(build_rows(head, micro.pools().target(0).head, traces, 3), {"forward_kl": 1.0})[0]


def _halves():
    traces = micro.traces("sql", 8)
    return traces[:4], traces[4:]


def _rank(rank: int, folder: str) -> None:
    from torch import distributed

    from harness.speculator.learner import average_gradients

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    head = micro.head()
    _loss(head, _halves()[rank]).backward()
    average_gradients([p for p in head.parameters() if p.grad is not None])
    torch.save(head.fc.weight.grad, f"{folder}/{rank}.pt")
    distributed.barrier()  # gloo may abort a rank whose peer has left
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", learner_names())
def test_every_named_learner_is_valid(name):
    assert set(learner(name).objectives) <= set(OBJECTIVES)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lrr": 1.0}, "did you mean 'lr'"),
        ({"depth": 0}, "depth is 0"),
        ({"store": "int3"}, "store is int3"),
        ({"heldout_share": 1.0}, "heldout_share"),
    ],
)
def test_settings_refuse_nonsense(table, message):
    with pytest.raises(ValueError, match=message):
        settings_from(table, "a test")


def test_a_wider_target_is_learnt_beside_at_a_lower_rate():
    settings = LearnerSettings(lr=4e-3)
    assert settings.lr_at(96) == settings.lr_at(48) == 4e-3
    assert settings.lr_at(256) == pytest.approx(1.5e-3)
    assert settings.lr_at(4096) == pytest.approx(9.375e-5)
    head = torch.zeros(64, 4096)
    found = Learner(micro.head(), head, settings, 0)
    assert found.optimiser.param_groups[0]["lr"] == settings.lr_at(4096)


def test_the_buffer_holds_as_many_tokens_of_a_wide_target_as_of_a_narrow_one():
    """32 MiB, enough for 370 requests of the tiny target, would hold two of an 8B one."""
    settings = LearnerSettings(buffer_tokens=1000)
    for width in (96, 4096):
        found = Learner(micro.head(), torch.zeros(64, width), settings, 0)
        assert found.buffer.capacity_bytes == 1000 * 4 * width * 2
    narrow = Learner(micro.head(), torch.zeros(64, 96), replace(settings, store="float8_e4m3fn"), 0)
    assert narrow.buffer.capacity_bytes == 1000 * 4 * 96


def test_the_rate_falls_once_a_shift_has_been_learnt_and_is_full_again_after_the_next():
    found = fed(replace(SETTINGS, settle=4, warmup=0))

    def rates(steps: int) -> list[float]:
        taken = []
        for _ in range(steps):
            found.step()
            taken.append(found.optimiser.param_groups[0]["lr"] / SETTINGS.lr)
        return taken

    assert rates(17) == pytest.approx([1.0] * 5 + [(4 / n) ** 0.5 for n in range(5, 17)])
    found.shift()
    assert rates(3) == [1.0] * 3
    steady = fed(replace(SETTINGS, warmup=0))
    for _ in range(9):
        steady.step()
    assert steady.optimiser.param_groups[0]["lr"] == SETTINGS.lr
