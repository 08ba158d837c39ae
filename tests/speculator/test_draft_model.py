"""An independent draft model as others publish it: the same sums as transformers, so the same drafts as a server's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from harness.errors import InputError
from harness.speculator import draft_model
from harness.speculator.checkpoint import load, save, snapshot
from harness.speculator.drafters.base import batched
from harness.speculator.target import Ends
from harness.speculator.tiny.alone import make_alone
from harness.speculator.tiny.make import FIRST_DOMAIN
from harness.speculator.tiny.spec import tiny_spec
from tests.speculator import micro

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
ENDS = SimpleNamespace(config=SimpleNamespace(vocab_size=VOCABULARY))


def llama(**more):
    return LlamaForCausalLM(LlamaConfig(**SIZES, **more))


MODELS = {
    "llama": lambda: llama(tie_word_embeddings=False),
    "llama 3.2": lambda: llama(tie_word_embeddings=True, rope_parameters=STRETCHED),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True)),
}


@pytest.fixture(params=MODELS)
def published(request, tmp_path: Path):
    """(model, its folder)."""
    torch.manual_seed(1)
    model = MODELS[request.param]().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    model.save_pretrained(tmp_path)
    return model, tmp_path


def texts(n: int = 3):
    torch.manual_seed(2)
    tokens = [torch.randint(0, VOCABULARY, (length,)) for length in (100, 60, 33)[:n]]
    nothing = [torch.zeros(len(t), 0) for t in tokens]
    return batched(tokens, nothing, [torch.zeros(len(t), 8) for t in tokens])


@torch.no_grad()
def test_it_says_what_transformers_says(published) -> None:
    model, folder = published
    drafter, batch = draft_model.load(folder, ENDS), texts()
    logits = model(batch.tokens).logits
    for depth, hidden in enumerate(drafter.chains(batch, 3)):
        said, valid = drafter.logits(hidden, depth), batch.valid(depth)
        torch.testing.assert_close(said[valid], batch.ahead(logits, 1 + depth)[valid], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_its_drafts_are_the_models_own_greedy_text(published) -> None:
    model, folder = published
    drafter, batch = draft_model.load(folder, ENDS), texts(1)
    drafted = drafter.draft(batch, 3).tokens[0]
    for p in (0, 17, 50, 90):
        known = batch.tokens[:, : p + 2]
        for token in drafted[p].tolist():
            assert int(model(known).logits[0, -1].argmax()) == token
            known = torch.cat([known, torch.tensor([[token]])], 1)


def test_a_published_version_has_the_names_of_its_folder(published, tmp_path: Path) -> None:
    """What a server finds its modules by, a tied head once."""
    model, folder = published
    drafter = draft_model.load(folder, ENDS)
    save(snapshot(drafter), tmp_path / "candidate.safetensors")
    found = load(tmp_path / "candidate.safetensors")
    assert found.kind == "llama"
    assert set(found.weights) == {name.removeprefix("model.") for name, _ in model.named_parameters()}
    assert found.vocabulary.is_full


def test_training_keeps_a_tied_head_tied(tmp_path: Path) -> None:
    torch.manual_seed(1)
    llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    drafter = draft_model.load(tmp_path, ENDS)
    drafter.logits(drafter.chains(texts(), 1)[0], 0).sum().backward()
    torch.optim.SGD(drafter.parameters(), 0.1).step()
    assert drafter.lm_head.weight is drafter.embed_tokens.weight


def test_what_cannot_be_learned_is_said(tmp_path: Path) -> None:
    llama(attention_bias=True).save_pretrained(tmp_path / "biased")
    with pytest.raises(InputError, match=r"bias"):
        draft_model.load(tmp_path / "biased", ENDS)
    llama(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}).save_pretrained(
        tmp_path / "linear"
    )
    with pytest.raises(InputError, match="'linear'"):
        draft_model.load(tmp_path / "linear", ENDS)
    with pytest.raises(InputError, match="vocabulary of 97; the target has 5"):
        draft_model.load(tmp_path / "biased", SimpleNamespace(config=SimpleNamespace(vocab_size=5)))


def test_one_that_is_made_knows_the_first_domain(tmp_path: Path) -> None:
    base = micro.model().folder
    make_alone(tiny_spec("micro"), 0, base, tmp_path, lambda *_: None)
    record = json.loads((tmp_path / "made.json").read_text())
    assert (record["drafter"], record["first_domain"]) == ("llama", FIRST_DOMAIN)
    for part in ("target", "successor"):
        assert (tmp_path / part / "model.safetensors").read_bytes() == (
            base / part / "model.safetensors"
        ).read_bytes()
    ends = Ends.load(tmp_path / "target")
    known, unknown = (
        draft_model.load(tmp_path / "head", ends),
        draft_model.untrained(tmp_path / "head", ends),
    )
    pool = micro.pools().pool(0, FIRST_DOMAIN)
    batch = batched([pool.text(i) for i in range(8)], *zip(*(pool.states(i) for i in range(8)), strict=True))
    with torch.no_grad():
        accepted = [float(d.accepted(batch, 3)[batch.valid()].float().mean()) for d in (known, unknown)]
    assert accepted[0] > 0.2 > 0.05 > accepted[1]
