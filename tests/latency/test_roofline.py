from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.errors import InputError, UnknownName
from harness.latency import decode_shape, load, names, specs
from harness.latency.buckets import CAPTURED, padded
from harness.latency.experts import activated, exchange_s


@pytest.mark.parametrize("name", names())
def test_every_name_loads_and_predicts(name):
    model = load(name)
    assert 0 < model.predict(decode_shape(1, 0, 100, drafter_loaded=False)) < 1
    assert model.kv_capacity_tokens is not None
    assert model.kv_capacity_tokens > 1000
    assert model.note


def test_verify_reads_kv_once():
    """K = 4 at batch 64, context 4096: 1.2 times K = 0, not 3.9 times."""
    model = load("roofline:h200:llama3-8b")
    alone = decode_shape(64, 0, 4096, drafter_loaded=False)
    verify = replace(decode_shape(64, 4, 4096), draft_passes=0, drafter_loaded=False)
    assert 1.05 < model.predict(verify) / model.predict(alone) < 1.3
    attention = [model.explain(s).parts["attention"] for s in (alone, verify)]
    assert attention[0] == pytest.approx(attention[1])


@pytest.mark.parametrize("gpu", ["h100", "rtx4090"])
def test_never_under_the_floor(gpu):
    spec, shape = specs.gpu(gpu), specs.model("llama3-8b")
    model = load(f"roofline:{gpu}:llama3-8b")
    for batch, context in ((1, 100), (64, 1000), (1000, 500)):
        matrices = shape.weights - shape.vocab * shape.hidden
        read = matrices * specs.BYTES + batch * context * shape.kv_bytes_token
        seconds = model.predict(decode_shape(batch, 0, context, drafter_loaded=False))
        assert seconds > max(read / spec.bytes_s, 2 * matrices * batch / spec.flops_s)


def test_llama_8b_has_8_billion_weights():
    assert specs.model("llama3-8b").weights == pytest.approx(8.03e9, rel=0.001)
    assert specs.model("llama3-70b").weights == pytest.approx(70.6e9, rel=0.002)
    assert specs.model("qwen3-30b-a3b").weights == pytest.approx(30.5e9, rel=0.01)


def test_tensor_parallel_splits_work_but_pays_all_reduce():
    one, four = (load(f"roofline:h100:llama3-8b{tp}") for tp in ("", ":tp4"))
    shape = decode_shape(32, 0, 1000, drafter_loaded=False)
    ratio = one.predict(shape) / four.predict(shape)
    assert 1.5 < ratio < 4
    assert four.kv_capacity_tokens > 4 * one.kv_capacity_tokens


def test_slow_links_make_tensor_parallel_dear():
    shape = decode_shape(32, 0, 1000, drafter_loaded=False)
    gain = [
        load(f"roofline:{g}:llama3-8b").predict(shape) / load(f"roofline:{g}:llama3-8b:tp2").predict(shape)
        for g in ("h100", "l40s")
    ]
    tokens = decode_shape(512, 0, 1, drafter_loaded=False)
    dear = [
        load(f"roofline:{g}:llama3-8b:tp2").explain(tokens).parts["tokens"]
        / load(f"roofline:{g}:llama3-8b").explain(tokens).parts["tokens"]
        for g in ("h100", "l40s")
    ]
    assert min(gain) > 1
    assert dear[0] < dear[1]


def test_draft_passes_are_paid_one_by_one():
    model = load("roofline:h100:llama3-8b")
    draft = [model.explain(replace(decode_shape(8, 4, 500), draft_passes=k)).parts["draft"] for k in range(5)]
    steps = np.diff(draft)
    assert draft[0] > 0
    assert steps[1:] == pytest.approx(steps[1], rel=1e-9)


def test_expected_distinct_experts():
    assert activated(np.array([1.0]), 128, 8)[0] == pytest.approx(8)
    assert activated(np.array([1e6]), 128, 8)[0] == pytest.approx(128)
    rng = np.random.default_rng(0)
    drawn = [len({e for _ in range(10) for e in rng.choice(128, 8, replace=False)}) for _ in range(400)]
    assert activated(np.array([10.0]), 128, 8)[0] == pytest.approx(np.mean(drawn), rel=0.02)


def test_exchange_grows_with_tokens_and_is_free_on_one_rank():
    shape, spec = specs.model("qwen3-30b-a3b"), specs.gpu("rtxpro6000")
    tokens = np.array([1.0, 100.0, 1000.0])
    assert not exchange_s(tokens, shape, spec, 1).any()
    assert (np.diff(exchange_s(tokens, shape, spec, 2)) > 0).all()


def test_captured_sizes():
    assert padded(np.array([0, 1, 3, 9, 256, 257, 512, 513, 5000])).tolist() == [
        0, 1, 4, 16, 256, 272, 512, 513, 5000
    ]  # fmt: skip
    assert len(CAPTURED) == 51


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roofline:h10:llama3-8b", "did you mean 'h100'"),
        ("roofline:h100:llama3-8", "did you mean 'llama3-8b'"),
        ("h100-llama3-8c", "did you mean 'h100-llama3-8b'"),
    ],
)
def test_unknown_names_offer_the_nearest(name, message):
    with pytest.raises(UnknownName, match=message):
        load(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roofline:h100", "does not read roofline:"),
        ("roofline:h100:llama3-8b:tp0", "does not read roofline:"),
        ("roofline:h100:llama3-8b:tp3", "does not divide"),
        ("roofline:rtx4090:llama3-70b", "does not fit"),
    ],
)
def test_impossible_rooflines_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        load(name)


def test_options_that_do_not_apply_are_refused():
    with pytest.raises(InputError, match="folders of tables"):
        load("h100-llama3-8b", ep=2)
    with pytest.raises(InputError, match="folders of tables"):
        load("roofline:h100:llama3-8b", draft="roofline")
    with pytest.raises(InputError, match="gap is -1"):
        load("h100-llama3-8b", gap=-1.0)


@pytest.mark.parametrize("name", ["h100-llama3-8b", "roofline:h100:llama3-8b"])
def test_gap_replaces_the_models_own(name):
    shape = decode_shape(4, 0, 100, drafter_loaded=False)
    assert load(name, gap=0.5).explain(shape).parts["gap"] == 0.5


def test_unanswerable_shapes_are_refused():
    model = load("roofline:h100:llama3-8b")
    with pytest.raises(InputError, match="K = 17 exceeds"):
        model.predict(decode_shape(1, 17, 10))
    with pytest.raises(InputError, match="tokens exceeds the 16384"):
        model.predict(decode_shape(17000, 0, 10))
    with pytest.raises(InputError, match="finite"):
        model.predict(decode_shape(1, 0, float("nan")))
