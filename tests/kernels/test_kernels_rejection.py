"""Rejection sampling: the same as the reference for given uniforms, and exact in distribution."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import rejection
from kernels.rejection import RejectionShape, error, greedy, inputs, reference, run, stochastic

SAMPLES, VOCAB = 8192, 8


@pytest.mark.usefixtures("interpreter")
@settings(max_examples=6, deadline=None)
@given(
    mode=st.sampled_from(["greedy", "onehot", "stochastic"]),
    batch=st.integers(1, 70),
    k=st.integers(1, 7),
    vocab=st.integers(3, 90),
    seed=st.integers(0, 1000),
)
def test_matches_reference(mode: str, batch: int, k: int, vocab: int, seed: int) -> None:
    made = inputs(RejectionShape(batch, k, vocab, mode), "cpu", torch.float32, seed)
    assert error(made, run(**made), reference(**made)) < 1e-5


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("mode", ["onehot", "stochastic"])
def test_vocabulary_in_several_chunks(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejection, "MAX_CHUNK", 32)
    monkeypatch.setattr(rejection, "TILE", 64)
    made = inputs(RejectionShape(5, 3, 75, mode), "cpu", torch.float32, 4)
    assert error(made, run(**made), reference(**made)) < 1e-5


@pytest.mark.usefixtures("interpreter")
def test_greedy_cases() -> None:
    target = torch.tensor([[5, 6, 7], [5, 6, 7], [5, 6, 7]], dtype=torch.int32)
    drafts = torch.tensor([[5, 6], [5, 9], [9, 6]], dtype=torch.int32)
    tokens, accepted = greedy(target, drafts)
    assert accepted.tolist() == [2, 1, 0]
    assert tokens.tolist() == [[5, 6, 7], [5, 6, -1], [5, -1, -1]]


def total_variation(tokens: torch.Tensor, p: torch.Tensor) -> float:
    counts = torch.bincount(tokens.long(), minlength=len(p)).double()
    return 0.5 * float((counts / counts.sum() - p.double()).abs().sum())


def three_sigma(p: torch.Tensor, samples: int) -> float:
    """Expected total variation of an exact sampler (normal approximation) plus three deviations.

    One sample moves it by at most 1 / samples, so its deviation is at most 1 / (2 sqrt(samples)).
    """
    mean = 0.5 * float((2 * p * (1 - p) / (math.pi * samples)).sqrt().sum())
    return mean + 3 * 0.5 / math.sqrt(samples)


def drawn(temperature: float = 1.0, claimed: str = "true") -> tuple[torch.Tensor, ...]:
    """(tokens, accepted, p at both positions, q) of SAMPLES sequences, K = 1, drafts always drawn from q.

    The sampler is told the true q, that the drafts were greedy (`onehot`), or a `false` q.
    """
    generator = torch.Generator().manual_seed(11)
    logits = 1.5 * torch.randn(2, VOCAB, generator=generator)
    p = (logits / temperature).softmax(-1)
    q = (p[0].log() + torch.randn(VOCAB, generator=generator)).softmax(-1)
    drafts = torch.multinomial(q, SAMPLES, replacement=True, generator=generator)[:, None].int()
    uniforms = torch.rand(SAMPLES, 2, generator=generator)
    told = torch.full((VOCAB,), 1 / VOCAB) if claimed == "false" else q
    probs = None if claimed == "onehot" else told.expand(SAMPLES, 1, VOCAB).contiguous()
    wide = logits.expand(SAMPLES, 2, VOCAB).contiguous()
    tokens, accepted = stochastic(wide, drafts, uniforms, probs, temperature)
    return tokens, accepted, p[0], p[1], q


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_output_has_exactly_the_targets_distribution(temperature: float) -> None:
    tokens, accepted, first, second, q = drawn(temperature)
    assert total_variation(tokens[:, 0], first) < three_sigma(first, SAMPLES)
    bonus = tokens[accepted == 1, 1]
    assert total_variation(bonus, second) < three_sigma(second, len(bonus))
    rate = float(torch.minimum(first, q).sum())  # of acceptance: 1 - TV(p, q)
    assert abs(accepted.double().mean().item() - rate) < 3 * math.sqrt(rate * (1 - rate) / SAMPLES)
    assert (tokens[accepted == 0, 1] == -1).all()


@pytest.mark.usefixtures("interpreter")
def test_onehot_is_exact_whatever_the_draft() -> None:
    tokens, _, first, _, _ = drawn(claimed="onehot")
    assert total_variation(tokens[:, 0], first) < three_sigma(first, SAMPLES)


@pytest.mark.usefixtures("interpreter")
def test_the_bound_catches_a_wrong_q() -> None:
    tokens, _, first, _, _ = drawn(claimed="false")
    assert total_variation(tokens[:, 0], first) > three_sigma(first, SAMPLES)


@pytest.mark.usefixtures("interpreter")
def test_identical_distributions_accept_all_and_never_draw_an_impossible_token() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0]]).expand(64, 2, 3).contiguous()
    probs = logits[:, :1].softmax(-1).contiguous()
    drafts = torch.tensor([0, 2], dtype=torch.int32).repeat(32)[:, None].contiguous()
    uniforms = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    uniforms[0, 1], uniforms[1, 1] = 0.0, 1.0 - 2**-24
    tokens, accepted = stochastic(logits, drafts, uniforms, probs)
    assert accepted.tolist() == [1] * 64
    assert not (tokens == 1).any()
