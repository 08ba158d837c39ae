"""Swaps: prepared whole, flipped at once, proven by what the layers answer, undone without a trace."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from fake_layers import HIDDEN, VOCAB, Linear, Model, Stale, checkpoint_of, equal, weights_of  # noqa: E402
from torch import nn  # noqa: E402

from harness.errors import InputError  # noqa: E402
from harness.live.swap import Prepared, prepare  # noqa: E402


@pytest.fixture(params=[False, True], ids=["by reference", "in place"])
def in_place(request) -> bool:
    return request.param


def prepared_for(model: Model, tensors, in_place: bool) -> Prepared:
    return replace(prepare(model, tensors), in_place=in_place)


# --- preparing and flipping --------------------------------------------------------------------


def test_new_weights_serve_and_the_old_ones_come_back(in_place):
    model, new = Model(0), Model(1)
    before, places = weights_of(model), [p.data_ptr() for p in model.parameters()]
    prepared = prepared_for(model, checkpoint_of(new), in_place)
    assert equal(weights_of(model), before), "preparing touches nothing"
    prepared.apply()
    assert equal(weights_of(model), weights_of(new))
    print_, worst = prepared.prove()
    assert len(print_) == 16
    assert worst < 1e-5
    if in_place:
        assert [p.data_ptr() for p in model.parameters()] == places, "CUDA graphs hold these addresses"
    prepared.revert()
    assert equal(weights_of(model), before)
    with pytest.raises(RuntimeError, match="off by"):
        prepared.prove()


def test_fused_layers_hold_their_parts_in_order():
    model, tensors = Model(0), checkpoint_of(Model(1))
    prepare(model, tensors).apply()
    parts = [tensors[f"layer.{p}_proj.weight"] for p in "qkv"]
    assert torch.equal(model.layer.qkv_proj.weight.data, torch.cat(parts))
    gate_up = [tensors[f"layer.{p}_proj.weight"] for p in ("gate", "up")]
    assert torch.equal(model.layer.gate_up_proj.weight.data, torch.cat(gate_up))


def test_a_vocabulary_is_padded_with_zeros():
    model, tensors = Model(0), checkpoint_of(Model(1))
    model.lm_head.weight.data[VOCAB:] = 9.0
    prepare(model, tensors).apply()
    assert torch.equal(model.lm_head.weight.data[:VOCAB], tensors["lm_head.weight"])
    assert not model.lm_head.weight.data[VOCAB:].any()


def test_modules_that_the_checkpoint_leaves_out_keep_their_weights():
    model, tensors = Model(0), checkpoint_of(Model(1))
    before = model.embed_tokens.weight.data.clone()
    del tensors["embed_tokens.weight"]
    prepare(model, tensors).apply()
    assert torch.equal(model.embed_tokens.weight.data, before)
    assert torch.equal(model.lm_head.weight.data[:VOCAB], tensors["lm_head.weight"])


def test_a_head_that_shares_the_embedding_changes_with_it(in_place):
    """A tied model: its checkpoint has no lm_head, and a packed head would keep a copy of the old one."""
    model, tensors = Model(0), checkpoint_of(Model(1))
    model.lm_head.weight = model.embed_tokens.weight
    del tensors["lm_head.weight"]
    before = model.lm_head.weight.data.clone()
    prepared = prepared_for(model, tensors, in_place)
    assert [c.name for c in prepared.changes].count("lm_head") == 1
    prepared.apply()
    prepared.prove()
    assert torch.equal(model.lm_head.weight.data[:VOCAB], tensors["embed_tokens.weight"])
    assert model.lm_head.weight is model.embed_tokens.weight, "tied for the next swap too"
    prepared.revert()
    assert torch.equal(model.lm_head.weight.data, before)
    model.lm_head.quant_method = Stale(model.lm_head)
    prepared.apply()
    with pytest.raises(RuntimeError, match="layer lm_head"):
        prepared.prove()


REFUSED = {
    "'layer.k_proj.weight' is missing beside": lambda t: t.pop("layer.k_proj.weight"),
    "has shape (8, 11); it must be (8, 12)": lambda t: t.update(
        {"layer.down_proj.weight": torch.zeros(HIDDEN, 11)}
    ),
    "of 'lm_head' has shape (25, 8)": lambda t: t.update({"lm_head.weight": torch.zeros(25, HIDDEN)}),
    "'layer.norm.weight' holds a value that is not a finite": lambda t: t["layer.norm.weight"].fill_(
        torch.nan
    ),
    "'layer.v_proj.weight' holds a value that is not a finite": lambda t: t["layer.v_proj.weight"][0].fill_(
        torch.inf
    ),
    "'other.weight' has no place": lambda t: t.update({"other.weight": torch.zeros(2)}),
    "'layer.o_proj.bias' has no place": lambda t: t.update({"layer.o_proj.bias": torch.zeros(HIDDEN)}),
    "holds no weight of the serving model": lambda t: t.clear(),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_is_touched(said: str):
    model, tensors = Model(0), checkpoint_of(Model(1))
    before = weights_of(model)
    REFUSED[said](tensors)
    with pytest.raises(InputError) as refusal:
        prepare(model, tensors)
    assert said in str(refusal.value)
    assert equal(weights_of(model), before)


@pytest.mark.parametrize("name", ["layer.qkv_proj", "layer.down_proj", "lm_head"])
def test_a_layer_that_goes_on_with_its_old_weight_is_found(name: str, in_place):
    model = Model(0)
    layer = model.get_submodule(name)
    layer.quant_method = Stale(layer)
    prepared = prepared_for(model, checkpoint_of(Model(1)), in_place)
    prepared.apply()
    with pytest.raises(RuntimeError, match=f"layer {name} answers the probe off by"):
        prepared.prove()


@pytest.mark.parametrize("name", ["layer.norm", "embed_tokens"])
def test_what_does_not_multiply_is_compared_weight_by_weight(name: str):
    model = Model(0)
    prepared = prepare(model, checkpoint_of(Model(1)))
    prepared.apply()
    module = model.get_submodule(name)
    module.weight.data = module.weight.data + 1e-3
    with pytest.raises(RuntimeError, match=f"layer {name}"):
        prepared.prove()


def test_answers_that_are_not_numbers_prove_nothing():
    model = Model(0)
    prepared = prepare(model, checkpoint_of(Model(1)))
    prepared.apply()
    model.layer.o_proj.weight.data = torch.full_like(model.layer.o_proj.weight.data, torch.nan)
    with pytest.raises(RuntimeError, match=r"layer layer.o_proj answers the probe off by nan"):
        prepared.prove()


def test_the_same_weights_have_the_same_fingerprint_and_others_another():
    prints = []
    for seed in (1, 2, 1):
        prepared = prepare(Model(0), checkpoint_of(Model(seed)))
        prepared.apply()
        prints.append(prepared.prove()[0])
    assert prints[0] == prints[2] != prints[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision(dtype):
    """The checkpoint's float32 is rounded to what serves; the probe allows for that, not for an old weight."""
    model, tensors = Model(0).to(dtype), checkpoint_of(Model(1))
    prepared = prepare(model, tensors)
    prepared.apply()
    prepared.prove()
    assert torch.equal(model.layer.o_proj.weight.data, tensors["layer.o_proj.weight"].to(dtype))


def test_an_apply_that_breaks_off_half_way_is_undone(in_place):
    model = Model(0)
    before = weights_of(model)
    prepared = prepared_for(model, checkpoint_of(Model(1)), in_place)
    last = prepared.changes[-1]

    class Broken:
        @property
        def weight(self) -> None:
            raise RuntimeError("out of memory")

    last.module = Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        prepared.apply()
    assert not equal(weights_of(model), before)
    prepared.revert()
    assert equal(weights_of(model), before)


def test_a_packed_layer_gets_a_freshly_packed_weight():
    """With vLLM's own packing, where vLLM for CPUs is installed."""
    utils = pytest.importorskip("vllm.model_executor.layers.utils")

    class Packed:
        def apply(self, layer, x, bias=None):
            return layer.cpu_linear(x, layer.weight, bias)

    model = nn.Sequential()
    model.a, model.b = Linear(64, 64), Linear(64, 64)
    tensors = {"a.weight": torch.randn(64, 64), "b.weight": torch.randn(64, 64)}
    for layer, remove in ((model.a, True), (model.b, False)):
        layer.quant_method = Packed()
        layer.output_size, layer.input_size = 64, 64
        utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=remove)
    x = torch.randn(3, 64)
    old = [layer.quant_method.apply(layer, x) for layer in (model.a, model.b)]
    prepared = prepare(model, tensors)
    prepared.apply()
    prepared.prove()
    for layer, name in ((model.a, "a.weight"), (model.b, "b.weight")):
        torch.testing.assert_close(
            layer.quant_method.apply(layer, x), x @ tensors[name].T, rtol=1e-4, atol=1e-4
        )
    prepared.revert()
    for layer, answer in zip((model.a, model.b), old, strict=True):
        torch.testing.assert_close(layer.quant_method.apply(layer, x), answer)
