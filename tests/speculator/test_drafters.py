"""Every drafter, drafting at all places at once, against drafting at one place token by token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the kernels or rl extra is not installed")
pytest.importorskip("safetensors", reason="the live extra is not installed")

import torch.nn.functional as F  # noqa: E402

from harness.errors import InputError, UnknownName  # noqa: E402
from harness.speculator.checkpoint import load, load_into, save, snapshot  # noqa: E402
from harness.speculator.drafters.base import Drafter, Drafts, Sequences, batched  # noqa: E402
from harness.speculator.drafters.medusa import Medusa, MedusaConfig  # noqa: E402
from harness.speculator.drafters.ngram import Ngram, NgramConfig  # noqa: E402
from harness.speculator.drafters.registry import drafter_names, make_drafter, trains  # noqa: E402
from harness.speculator.learner import Learner  # noqa: E402
from harness.speculator.settings import LearnerSettings  # noqa: E402
from harness.speculator.vocabulary import DraftVocabulary  # noqa: E402

torch.set_num_threads(1)
K = 4
KINDS = drafter_names()
TRAINED = tuple(kind for kind in KINDS if trains(kind))
PLACES = ((0, 0), (0, 6), (0, 15), (1, 3), (1, 7), (2, 2), (2, 11))
"""(text, place); the last place of each text has no token to come."""


@pytest.fixture(params=KINDS)
def drafter(request: Any, target: Any, vocabulary: Any) -> Drafter:
    return random_drafter(request.param, target, vocabulary)


@pytest.fixture(params=TRAINED)
def trained(request: Any, target: Any, vocabulary: Any) -> Drafter:
    return random_drafter(request.param, target, vocabulary)


def random_drafter(kind: str, target: Any, vocabulary: Any, seed: int = 0) -> Drafter:
    """float64; every weight random and large enough that each changes the drafts."""
    made = make_drafter(kind, target, vocabulary, seed).double()
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p) / math.sqrt(p.shape[-1]) if p.dim() == 2 else 1 + torch.rand_like(p))
    return made


# --- references, one place at a time ---


def norm(x: Any, layer: Any) -> Any:
    return x / (x.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight


def mlp(x: Any, m: Any) -> Any:
    return m.down_proj(F.silu(m.gate_proj(x)) * m.up_proj(x))


def causal(attention: Any, x: Any) -> Any:
    """[n, H] from inputs [n, ...] at positions 0..n-1, as Hugging Face's Llama does it."""
    c, n = attention.c, len(x)
    angle = torch.arange(n).double()[:, None] / c.rope_theta ** (torch.arange(0, c.head_dim, 2) / c.head_dim)
    cos, sin = (torch.cat([f(angle), f(angle)], -1) for f in (torch.cos, torch.sin))

    def turned(y: Any) -> Any:
        a, b = y.chunk(2, -1)
        return y * cos + torch.cat([-b, a], -1) * sin

    found = []
    for head in range(c.heads):
        group = head // (c.heads // c.kv_heads)
        q = turned(attention.q_proj(x)[:, head * c.head_dim : (head + 1) * c.head_dim])
        k = turned(attention.k_proj(x)[:, group * c.head_dim : (group + 1) * c.head_dim])
        v = attention.v_proj(x)[:, group * c.head_dim : (group + 1) * c.head_dim]
        scores = (q @ k.T / math.sqrt(c.head_dim)).masked_fill(~torch.ones(n, n).bool().tril(), -math.inf)
        found.append(scores.softmax(-1) @ v)
    return attention.o_proj(torch.cat(found, -1))


def eagle3_state(d: Any, batch: Sequences, row: int, p: int, drafted: list[int], states: list[Any]) -> Any:
    """Pairs (token i + 1, fused[i]) up to p, then one of each draft and the state that proposed it."""
    tokens = torch.tensor([*batch.tokens[row, 1 : p + 2].tolist(), *drafted])
    hidden = torch.stack([*(d.fc(batch.fused[row, i]) for i in range(p + 1)), *states])
    layer = d.midlayer
    pairs = [norm(d.embedding[tokens], layer.input_layernorm), norm(hidden, layer.hidden_norm)]
    x = hidden + causal(layer.self_attn, torch.cat(pairs, -1))
    return (x + mlp(norm(x, layer.post_attention_layernorm), layer.mlp))[-1]


def llama_state(d: Any, batch: Sequences, row: int, p: int, drafted: list[int], states: list[Any]) -> Any:
    x = d.embed_tokens.weight[torch.tensor([*batch.tokens[row, : p + 2].tolist(), *drafted])]
    for layer in d.layers:
        x = x + causal(layer.self_attn, norm(x, layer.input_layernorm))
        x = x + mlp(norm(x, layer.post_attention_layernorm), layer.mlp)
    return x[-1]


def medusa_state(d: Any, batch: Sequences, row: int, p: int, drafted: list[int], states: list[Any]) -> Any:
    x, known = batch.last[row, p], d.embedding[batch.tokens[row, p + 1]]
    if not drafted:
        x = x + d.root.weight @ (known / (known.pow(2).mean() + 1e-5).sqrt())
    block = d.blocks[len(drafted)].linear
    return x + F.silu(block.weight @ x + block.bias)


STATES: dict[str, Callable[..., Any]] = {
    "eagle3": eagle3_state,
    "llama": llama_state,
    "medusa": medusa_state,
}


def head_of(d: Any, state: Any, depth: int) -> Any:
    return d.lm_heads[depth](state) if d.kind == "medusa" else d.lm_head(norm(state, d.norm))


@torch.no_grad()
def one_by_one(d: Any, batch: Sequences, row: int, p: int, k: int) -> tuple[list[int], list[float]]:
    """Drafts at one place, and their log-probabilities."""
    drafted: list[int] = []
    states: list[Any] = []
    logq: list[float] = []
    for depth in range(k):
        states.append(STATES[d.kind](d, batch, row, p, drafted, states))
        scores = head_of(d, states[-1], depth).log_softmax(-1)
        drafted.append(int(d.vocabulary.ids[scores.argmax()]))
        logq.append(float(scores.max()))
    return drafted, logq


# --- (a) to (e): drafting ---


@pytest.mark.parametrize("start", [0, 3])
def test_all_places_at_once_are_each_place_by_itself(trained: Drafter, batch: Sequences, start: int) -> None:
    found = trained.draft(replace(batch, start=start), K)
    for row, p in PLACES:
        if p >= start:
            tokens, logq = one_by_one(trained, batch, row, p, K)
            assert found.tokens[row, p - start].tolist() == tokens, (row, p)
            assert found.logq[row, p - start].tolist() == pytest.approx(logq, abs=1e-10), (row, p)


def test_where_places_start_changes_nothing(drafter: Drafter, batch: Sequences) -> None:
    every, late = (drafter.draft(replace(batch, start=s), K) for s in (0, 5))
    assert late.tokens.shape == late.logq.shape == (3, 12, K)
    same_drafts(Drafts(every.tokens[:, 5:], every.logq[:, 5:]), late)


def test_accepted_is_the_count_by_hand(drafter: Drafter, batch: Sequences) -> None:
    """On texts that partly repeat what is drafted, else hardly anything would be accepted."""
    tokens = batch.tokens.clone()
    tokens[:, 8:] = tokens[:, 2:11]
    for row, p, agreed in ((0, 3, 4), (0, 10, 2), (1, 4, 1), (2, 5, 3)):
        drafts = drafter.draft(replace(batch, tokens=tokens), agreed).tokens[row, p]
        tokens[row, p + 2 : p + 2 + agreed] = drafts.where(drafts >= 0, tokens[row, p + 2 : p + 2 + agreed])
    for start in (0, 3):
        changed = replace(batch, tokens=tokens, start=start)
        drafts = drafter.draft(changed, K).tokens.tolist()
        expected = [
            [by_hand(drafts[row][w], tokens[row, : int(batch.lengths[row])].tolist(), start + w) for w in
             range(17 - start)] for row in range(3)
        ]  # fmt: skip
        assert sum(map(sum, expected)) > 3
        assert drafter.accepted(changed, K).tolist() == expected


def by_hand(drafts: list[int], text: list[int], p: int) -> int:
    count = 0
    while count < len(drafts) and p + 2 + count < len(text) and drafts[count] == text[p + 2 + count]:
        count += 1
    return count


def test_padding_changes_nothing(drafter: Drafter, batch: Sequences) -> None:
    together = drafter.draft(batch, K)
    for row, n in enumerate(batch.lengths.tolist()):
        one = slice(row, row + 1)
        lone = Sequences(batch.tokens[one, :n], batch.fused[one, :n], batch.last[one, :n], batch.lengths[one])
        known = slice(0, n - 1)  # p + 1 exists
        same_drafts(cut(drafter.draft(lone, K), 0, known), cut(together, row, known))
        assert torch.equal(drafter.accepted(lone, K)[0], drafter.accepted(batch, K)[row, :n])


def test_nothing_looks_ahead(drafter: Drafter, batch: Sequences) -> None:
    """Tokens behind p + 1 and states behind p are not known when a step at p drafts."""
    p = 6
    tokens, fused, last = batch.tokens.clone(), batch.fused.clone(), batch.last.clone()
    tokens[:, :8] = torch.tensor([1, 2, 4, 5, 7, 8, 1, 2])  # so that an n-gram recurs
    before = drafter.draft(replace(batch, tokens=tokens), K)
    tokens = tokens.clone()
    tokens[:, p + 2 :] = (tokens[:, p + 2 :] + 1) % 24
    fused[:, p + 1 :] += 1.0
    last[:, p + 1 :] += 1.0
    after = drafter.draft(replace(batch, tokens=tokens, fused=fused, last=last), K)
    for row in range(3):
        same_drafts(cut(before, row, slice(0, p + 1)), cut(after, row, slice(0, p + 1)))


def test_a_chain_of_its_own_drafts_drafts_them_again(trained: Drafter, batch: Sequences) -> None:
    late = replace(batch, start=2)
    drafts = trained.draft(late, K)
    chain = drafts.tokens[..., : K - 1]
    states = trained.chains(late, K, chain)
    assert [tuple(s.shape) for s in states] == [(3, 15, 8)] * K
    scores = [trained.logits(s, j).log_softmax(-1).max(-1) for j, s in enumerate(states)]
    again = torch.stack([trained.vocabulary.to_target(s.indices) for s in scores], -1)
    same_drafts(drafts, Drafts(again, torch.stack([s.values for s in scores], -1)))


@pytest.mark.parametrize("depth", [1, 3])
def test_no_chain_is_the_chain_of_the_text(trained: Drafter, batch: Sequences, depth: int) -> None:
    late = replace(batch, start=2)
    text = [late.ahead(late.tokens, 2 + j) for j in range(depth - 1)]
    chain = torch.stack(text, -1) if text else late.tokens.new_zeros(3, 15, 0)
    pairs = zip(trained.chains(late, depth), trained.chains(late, depth, chain), strict=True)
    for j, (forced, followed) in enumerate(pairs):
        torch.testing.assert_close(forced[late.valid(j)], followed[late.valid(j)], rtol=0, atol=1e-12)


def same_drafts(a: Drafts, b: Drafts) -> None:
    assert torch.equal(a.tokens, b.tokens)
    torch.testing.assert_close(a.logq, b.logq, rtol=0, atol=1e-12)


def cut(d: Drafts, row: int, part: slice) -> Drafts:
    return Drafts(d.tokens[row, part], d.logq[row, part])


# --- n-grams ---


def test_ngrams_prefer_the_longest_then_the_latest_match() -> None:
    text = torch.tensor([1, 2, 3, 7, 2, 3, 8, 1, 2, 3, 9, 2, 3, 5, 1, 2, 3])
    batch = batched([text], [torch.zeros(17, 3)], [torch.zeros(17, 1)])
    drafts = Ngram(10, NgramConfig(max_n=3, min_n=2)).draft(batch, 3)
    assert drafts.tokens[0, 15].tolist() == [9, 2, 3]  # 1 2 3 at 7, though 2 3 is later at 11
    assert drafts.tokens[0, 11].tolist() == [9, 2, 3]  # 2 3 at 8, the latest
    assert drafts.tokens[0, 4].tolist() == [7, 2, 3]
    assert drafts.tokens[0, 1].tolist() == [-1, -1, -1]
    assert drafts.tokens[0, 16].tolist() == [-1, -1, -1]  # behind the text nothing is known
    assert not drafts.logq.any()


def test_ngrams_propose_no_more_than_is_known() -> None:
    text = torch.tensor([4, 4, 4, 4])
    batch = batched([text], [torch.zeros(4, 3)], [torch.zeros(4, 1)])
    assert Ngram(5, NgramConfig(2, 1)).draft(batch, 2).tokens[0].tolist() == [[4, -1]] * 3 + [[-1, -1]]
    short = batched([text[:1]], [torch.zeros(1, 3)], [torch.zeros(1, 1)])
    assert Ngram(5).draft(short, 2).tokens.tolist() == [[[-1, -1]]]
    both = batched([text, text[:2]], [torch.zeros(4, 3)] * 2, [torch.zeros(4, 1)] * 2)  # padded with token 0
    assert bool((Ngram(5, NgramConfig(1, 1)).draft(both, 2).tokens[1, 1:] == -1).all())


def test_ngrams_have_nothing_to_train(target: Any, vocabulary: Any, batch: Sequences) -> None:
    drafter = make_drafter("ngram", target, vocabulary, 0)
    assert not list(drafter.parameters())
    for call in (lambda: drafter.chains(batch, 1), lambda: drafter.logits(batch.last, 0)):
        with pytest.raises(InputError, match="no weights"):
            call()
    with pytest.raises(InputError, match="min_n <= max_n"):
        NgramConfig(1, 2)


# --- (f), (g): learning ---


def test_medusa_learns_a_toy() -> None:
    """A cycle of tokens whose last state says one token and hides the next behind the known one."""
    size, n = 12, 40
    torch.manual_seed(0)
    states, embedding = torch.randn(size, 16), torch.randn(size, 16)
    tokens = (5 * torch.arange(n)[None] + torch.arange(4)[:, None]) % size
    batch = Sequences(tokens, torch.zeros(4, n, 48), states[tokens], torch.full((4,), n))
    drafter = Medusa(MedusaConfig(16, 3), DraftVocabulary.full(size), embedding)
    optimiser = torch.optim.Adam(drafter.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        terms = []
        for j, hidden in enumerate(drafter.chains(batch, 3)):
            keep = batch.valid(j)
            terms.append(F.cross_entropy(drafter.logits(hidden[keep], j), batch.ahead(tokens, 2 + j)[keep]))
        loss = torch.stack(terms).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert drafter.root.weight.abs().max() > 0
    assert bool((drafter.accepted(batch, 3)[:, : n - 4] == 3).all())
    with pytest.raises(InputError, match="3 heads"):
        drafter.chains(batch, 4)


def small_learner(kind: str, target: Any, vocabulary: Any, traces: Any) -> Learner:
    objectives = {"forward_kl": 1.0, "discard": 0.5, "policy_gradient": 0.1}
    settings = LearnerSettings(
        objectives=objectives, depth=K, batch=4, lr=1e-2, heldout_share=1e-9, store="float32", average=0.0
    )
    learner = Learner(make_drafter(kind, target, vocabulary, 5), target.head, settings, seed=0)
    for trace in traces:
        learner.add(trace)
    return learner


@pytest.mark.parametrize("kind", TRAINED)
def test_each_learns_and_survives_a_checkpoint(
    kind: str, target: Any, vocabulary: Any, traces: Any, batch: Sequences, tmp_path: Path
) -> None:
    learner = small_learner(kind, target, vocabulary, traces)
    start = snapshot(learner.drafter)
    reports = [learner.step() for _ in range(12)]
    assert reports[-1].parts["forward_kl"] < reports[0].parts["forward_kl"]
    moved = snapshot(learner.drafter)
    still = [name for name, w in moved.weights.items() if torch.equal(w, start.weights[name])]
    unused = [f"{part}.{j}." for part in ("blocks", "lm_heads") for j in range(K, 8)]  # Medusa's deeper heads
    assert not [name for name in still if not any(name.startswith(u) for u in unused)]
    save(learner.candidate(), tmp_path / "one.safetensors")
    other = make_drafter(kind, target, DraftVocabulary(vocabulary.ids, 24), 6)
    load_into(other, load(tmp_path / "one.safetensors"))
    single = replace(batch, fused=batch.fused.float(), last=batch.last.float())
    a, b = learner.drafter.draft(single, K), other.draft(single, K)
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.logq, b.logq)


@pytest.mark.parametrize("kind", TRAINED)
def test_a_new_draft_vocabulary_keeps_what_was_known(
    kind: str, target: Any, vocabulary: Any, traces: Any, batch: Sequences
) -> None:
    """`heads` are all parameters whose rows are draft tokens, as wide as the target's."""
    learner = small_learner(kind, target, vocabulary, traces)
    learner.step()
    drafter, old = learner.drafter, vocabulary.ids
    single = replace(batch, fused=batch.fused.float(), last=batch.last.float())
    before = [drafter.logits(h, j) for j, h in enumerate(drafter.chains(single, 2))]
    learner.rechoose_vocabulary((torch.arange(24) % 5).double())
    new = drafter.vocabulary.ids
    kept = [t for t in new.tolist() if t in old.tolist()]
    assert 0 < len(kept) < len(new) == len(old)
    assert vocabulary.ids is old, "the registry's drafter has a copy"
    was, now = torch.searchsorted(old, torch.tensor(kept)), drafter.vocabulary.index[kept]
    for j, h in enumerate(drafter.chains(single, 2)):
        torch.testing.assert_close(drafter.logits(h, j)[..., now], before[j][..., was])


# --- the registry ---


def test_the_registry_names_and_makes(target: Any, vocabulary: Any) -> None:
    assert KINDS == ("eagle3", "llama", "medusa", "ngram")
    for kind in KINDS:
        state = torch.get_rng_state()
        a, b, c = (make_drafter(kind, target, vocabulary, seed) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state), "the global stream must not move"
        assert a.kind == kind
        assert snapshot(a).weights_print == snapshot(b).weights_print
        if kind in ("eagle3", "llama"):  # Medusa begins with the target's rows and zeros
            assert snapshot(a).weights_print != snapshot(c).weights_print


def test_the_registry_refuses(target: Any, vocabulary: Any) -> None:
    with pytest.raises(UnknownName, match="did you mean 'eagle3'"):
        make_drafter("eagle", target, vocabulary, 0)
    with pytest.raises(InputError, match="for a target of 9 tokens"):
        make_drafter("medusa", target, DraftVocabulary.full(9), 0)
