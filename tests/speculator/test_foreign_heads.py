"""Heads that others published: other names, no fingerprints, a full vocabulary, another container."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from harness.errors import InputError, MissingPart  # noqa: E402
from harness.speculator import checkpoint  # noqa: E402
from harness.speculator.drafters.eagle3 import Eagle3  # noqa: E402
from harness.speculator.rows import sequences_of  # noqa: E402
from harness.speculator.target import Ends, Target  # noqa: E402
from harness.speculator.tiny import vllm_head  # noqa: E402
from tests.speculator import micro  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return micro.model()


@pytest.fixture
def parts(model, tmp_path):
    """(folder of a foreign head without its weights, tensors of ours, ends of the target)."""
    folder = tmp_path / "head"
    folder.mkdir()
    shutil.copy(model.head / "config.json", folder)
    found = checkpoint.load(model.head / checkpoint.WEIGHTS)
    tensors = {n: w.clone() for n, w in found.weights.items()} | {"d2t": found.vocabulary.d2t}
    return folder, tensors, Ends.load(model.target)


def renamed(tensors):
    return {n.replace("midlayer.", "layers.0."): w for n, w in tensors.items()}


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_the_same_head_whatever_it_comes_in(model, parts, ending):
    folder, tensors, ends = parts
    foreign = renamed(tensors) | {"embed_tokens.weight": torch.zeros(3, 3)}
    if ending == "bin":
        torch.save(foreign, folder / "pytorch_model.bin")
    else:
        save_file(foreign, str(folder / "model.safetensors"))
    ours, theirs = vllm_head.load(model.head, ends), vllm_head.load(folder, ends)
    assert checkpoint.snapshot(theirs).weights_print == checkpoint.snapshot(ours).weights_print
    assert theirs.vocabulary.fingerprint() == ours.vocabulary.fingerprint()
    assert checkpoint.snapshot(theirs).consistent


def test_without_a_map_the_vocabulary_is_the_targets(parts):
    folder, tensors, ends = parts
    tensors.pop("d2t")
    size = ends.embedding.shape[0]
    tensors["lm_head.weight"] = torch.zeros(size, ends.embedding.shape[1])
    save_file(tensors, str(folder / "model.safetensors"))
    assert vllm_head.load(folder, ends).vocabulary.is_full


def test_a_form_that_the_learner_lacks_is_named(parts):
    folder, tensors, ends = parts
    save_file(tensors, str(folder / "model.safetensors"))
    config = json.loads((folder / "config.json").read_text()) | {"norm_before_fc": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="norm_before_fc"):
        vllm_head.load(folder, ends)


def test_the_norm_may_come_before_the_residual(parts):
    """As a head says, as those of vllm-project/speculators do unless they say otherwise, and not elsewhere."""
    folder, tensors, ends = parts
    save_file(tensors, str(folder / "model.safetensors"))
    said = json.loads((folder / "config.json").read_text())
    sizes = {name: said.pop(name) for name in vllm_head.SIZES}
    theirs = {"speculators_model_type": "eagle3", "transformer_layer_config": sizes | {"rope_theta": 500.0}}
    forms = {
        "ours": (said | sizes, False, 1e4),
        "says so": (said | sizes | {"norm_before_residual": True}, True, 1e4),
        "says no more": ({"norm_before_residual": True}, True, 1e4),
        "speculators": (theirs, True, 500.0),
        "speculators, not": (theirs | {"norm_before_residual": False}, False, 500.0),
    }
    for config, before, theta in forms.values():
        (folder / "config.json").write_text(json.dumps(config))
        head = vllm_head.load(folder, ends)
        assert (head.config.norm_before_residual, head.config.rope_theta) == (before, theta)
        assert head.config.hidden == sizes["hidden_size"]


@torch.no_grad()
def test_the_layer_with_the_norm_before_the_residual_is_vllms(model):
    """The first draft of one place by hand, as vLLM's layer has it: the normed state is what is added to."""
    head = micro.head()
    plain, normed = (
        Eagle3(replace(head.config, norm_before_residual=before), head.vocabulary, head.embedding)
        for before in (False, True)
    )
    for drafter in (plain, normed):
        checkpoint.load_into(drafter, checkpoint.snapshot(head))
    batch = sequences_of([micro.pools().pool(0, "sql").trace(0)])
    place, layer = batch.start, head.midlayer
    hidden = head.fc(batch.fused)
    read = layer.attention_input(head.embedding[batch.tokens.roll(-1, 1)], hidden)
    q, k, v = layer.self_attn.project(read[:, : place + 1], 0)
    causal = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0, :, -1].flatten()
    for drafter, residual in ((plain, hidden[0, place]), (normed, layer.hidden_norm(hidden[0, place]))):
        x = residual + layer.self_attn.o_proj(causal)
        wanted = x + layer.mlp(layer.post_attention_layernorm(x))
        torch.testing.assert_close(drafter.chains(batch, 1)[0][0, 0], wanted, rtol=1e-4, atol=1e-5)


def test_no_weights_and_strange_weights(parts):
    folder, tensors, ends = parts
    with pytest.raises(MissingPart, match="holds no weights"):
        vllm_head.load(folder, ends)
    save_file(tensors | {"extra.weight": torch.zeros(2)}, str(folder / "model.safetensors"))
    with pytest.raises(InputError, match="extra"):
        vllm_head.load(folder, ends)


def test_the_ends_are_the_targets(model):
    whole, ends = Target.load(model.target), Ends.load(model.target)
    assert torch.equal(whole.head, ends.head)
    assert torch.equal(whole.embedding, ends.embedding)
