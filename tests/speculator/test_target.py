"""The target's figures for the learner against passes of the plain model."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from harness.errors import InputError, MissingPart  # noqa: E402
from harness.speculator.rows import build_rows  # noqa: E402
from harness.speculator.target import Target, aux_layers  # noqa: E402
from tests.speculator import micro  # noqa: E402


@pytest.fixture(scope="module")
def target() -> Target:
    return micro.pools().target(0)


def hidden_of(target: Target, tokens: list[int]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return target.model.model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states


def test_states_are_those_of_each_text_alone(target):
    texts = [[1, 50, 60, 70, 80], [1, 90, 91]]
    for text, (fused, last) in zip(texts, target.states(texts), strict=True):
        hidden = hidden_of(target, text)
        expected = torch.cat([hidden[i][0] for i in aux_layers(target.config.num_hidden_layers)], -1)
        assert torch.allclose(fused, expected, atol=1e-5)
        assert torch.allclose(last, hidden[-1][0], atol=1e-5)


def test_last_states_score_the_next_token(target):
    text = [1, 50, 60, 70]
    _, last = target.states([text])[0]
    with torch.no_grad():
        logits = target.model(input_ids=torch.tensor([text])).logits[0]
    assert torch.allclose(last @ target.head.T, logits, atol=1e-4)


def test_branches_are_those_of_separate_passes(target):
    """The tree mask: every branch sees the text up to its place and its own drafts, nothing else."""
    text, at = [1, 50, 60, 70, 80, 90, 95], [0, 2, 4]
    drafted = torch.tensor([[11, 12, 13], [21, 22, 23], [31, 32, 33]])
    found = target.branches(text, at, drafted)
    for r, p in enumerate(at):
        alone = hidden_of(target, text[: p + 2] + drafted[r].tolist())[-1][0]
        assert torch.allclose(found[r], alone[p + 2 :], atol=1e-5)


def test_no_branches_are_no_states(target):
    found = target.branches([1, 50, 60], [], torch.zeros(0, 3, dtype=torch.int64))
    assert found.shape == (0, 3, target.config.hidden_size)
    with pytest.raises(InputError, match="token ids"):
        target.branches([1, 50, 60], [0], torch.tensor([[5, -1]]))


def test_rows_of_a_branch_carry_the_verdict_on_its_own_drafts(target):
    """Behind a refusal the teacher is the target after the drafts, not after the text."""
    trace = next(t for t in micro.traces("sql", 20) if (t.accepted == 0).any())
    step = int((trace.accepted == 0).nonzero()[0])
    p, drafts = int(trace.at[step]), trace.drafted[step]
    states = target.branches(trace.tokens.tolist(), [p], drafts[None])
    branched = micro.with_branch(trace, step, states)
    rows = build_rows(micro.head(), target.head, [branched], 3)
    mine = rows.counterfactual
    assert mine.sum() == 2  # depths 1 and 2 stand behind the refused draft
    known = trace.tokens[: p + 2].tolist()
    for depth, teacher in zip(rows.depth[mine].tolist(), rows.teacher_lse[mine].tolist(), strict=True):
        with torch.no_grad():
            ids = torch.tensor([known + drafts[:depth].tolist()])
            logits = target.model(input_ids=ids).logits[0, -1]
        assert teacher == pytest.approx(float(logits.logsumexp(-1)), abs=1e-3)


def test_a_folder_without_a_model_says_what_makes_one(tmp_path):
    with pytest.raises(MissingPart, match="make-model"):
        Target.load(tmp_path)
