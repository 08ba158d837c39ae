"""Heads that others published: other names, no fingerprints, a full vocabulary, another container."""

from __future__ import annotations

import json
import shutil

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from harness.errors import InputError, MissingPart  # noqa: E402
from harness.speculator import checkpoint  # noqa: E402
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
    config = json.loads((folder / "config.json").read_text()) | {"norm_before_residual": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="norm_before_residual"):
        vllm_head.load(folder, ends)


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
