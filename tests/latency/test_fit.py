"""Fits of a synthetic profile with known costs: recovery, floors, growth, storage, names."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError, MissingPart, UnknownName
from harness.latency import decode_shape, load, names
from harness.latency.catalog import fit
from harness.latency.compiled import step_seconds
from harness.latency.importers import profile
from harness.latency.rows import columns_of, floor_us
from harness.latency.specs import assumed
from tests.latency import synthetic
from tests.latency.test_growth import HOW, grown, shapes

HOST_S = assumed().step_gap_us * 1e-6


@cache
def profile_file() -> Path:
    return synthetic.write_profile(Path(mkdtemp()) / "h200.jsonl.gz")


@pytest.fixture
def path() -> Path:
    return profile_file()


def step_s(model, batch, k, context):
    """What the fit says of a whole step as the profiler measures it: no drafting, no host."""
    parts = model.explain(decode_shape(batch, k, context - k - 1)).parts
    return sum(parts.values()) - parts["draft"] - HOST_S


UNSEEN = [(48, 0, 3000), (48, 4, 3000), (64, 2, 2000), (16, 5, 4096), (128, 1, 700), (8, 7, 12000)]


@pytest.mark.parametrize(("batch", "k", "context"), UNSEEN)
def test_unseen_whole_steps_come_back_within_five_percent(path, batch, k, context):
    true = synthetic.step_us(batch, 1 + k, context) * 1e-6
    assert step_s(load(str(path)), batch, k, context) == pytest.approx(true, rel=0.05)


def test_errors_are_those_of_the_noise(path):
    found = fit(path, "x")
    whole = {e.op: e for e in found.basis.whole_errors}
    kernels = {e.op: e for e in found.basis.kernel_errors}
    assert whole["verify_step"].mean < 2 * synthetic.NOISE
    assert whole["layer"].mean < 2 * synthetic.NOISE
    assert whole["draft_pass"].mean < 4 * synthetic.NOISE
    assert kernels["all"].mean < 3 * synthetic.NOISE
    assert abs(kernels["all"].bias) < synthetic.NOISE
    assert set(kernels) == {
        "gemm", "lm_head", "fusion", "rmsnorm", "rotary", "swiglu", "rejection", "attention", "all",
    }  # fmt: skip


def test_without_noise_the_gap_is_found(tmp_path):
    found = fit(synthetic.write_profile(tmp_path / "clean.jsonl.gz", noise=0.0), "x")
    assert found.basis.step_gap.step_s * 1e6 == pytest.approx(synthetic.GAP_US, rel=0.25)
    assert found.basis.step_gap.row_s * 1e6 == pytest.approx(synthetic.ROW_US, rel=0.5)
    assert found.basis.step_gap.factor == pytest.approx(1.0, abs=0.01)
    assert {e.op: e for e in found.basis.whole_errors}["verify_step"].mean < 0.01


def test_a_gap_is_never_negative(tmp_path, monkeypatch):
    """Whole steps faster than their kernels: the factor takes what it may, the gap stays at zero."""
    monkeypatch.setattr(synthetic, "GAP_US", -400.0)
    monkeypatch.setattr(synthetic, "ROW_US", 0.0)
    found = fit(synthetic.write_profile(tmp_path / "fast.jsonl.gz"), "x")
    assert found.basis.step_gap.step_s == 0.0
    assert found.basis.step_gap.row_s >= 0.0
    assert 0.9 <= found.basis.step_gap.factor < 1.0


def test_verify_attention_is_measured_by_query_tokens(path):
    model = load(str(path))
    for k in (0, 4, 7, 15):
        told = model.explain(decode_shape(64, k, 4096 - k))
        true = synthetic.LAYERS * synthetic.attention_us(64, 1 + k, 4096) * 1e-6
        assert told.parts["attention"] == pytest.approx(true, rel=0.03)
    assert model.max_k == 15
    assert model.explain(decode_shape(64, 4, 4096)).basis["attention"] == "measured"
    assert model.explain(decode_shape(64, 5, 4096)).basis["attention"] == "interpolated"


def test_skew_is_recovered(path):
    model = load(str(path))
    level = decode_shape(64, 0, 4096, drafter_loaded=False)
    high, long = synthetic.deviation(4096, 8, 1)
    skewed = replace(level, kv_sq=64 * (4096.0**2 + (high - 4096) ** 2), kv_max=long)
    low = synthetic.attention_us(64, 1, 4096)
    true = low + synthetic.SKEW * (synthetic.attention_us(64, 1, high) - low)
    assert model.explain(skewed).parts["attention"] * 1e6 / 32 == pytest.approx(true, rel=0.05)


def test_draft_passes_are_measured(path):
    """K passes: the first over every token of the step, all with host work that a graph does not hold."""
    k, host = 4, assumed().draft_pass_us
    first = synthetic.draft_us(64, 1 + k, 4096)
    further = synthetic.draft_us(64, 1, 4096)
    told = load(str(path)).explain(decode_shape(64, k, 4096)).parts["draft"] * 1e6
    assert told == pytest.approx(first + (k - 1) * further + k * host, rel=0.06)


def test_the_note_carries_the_error(path):
    model = load(str(path))
    assert "held-out error" in model.note
    assert "by whole step" in model.note
    assert "gemm" in model.provenance["held-out error"]
    assert "fitted on whole steps" in model.provenance["gap"]
    assert load(str(path), gap=0.25).provenance["gap"] == "set by the caller"


@pytest.mark.parametrize("op", ["gemm", "attention", "lm_head"])
def test_no_kernel_under_its_floor(tmp_path, op):
    """Rows far too fast for the device's measured ceilings are lifted to them."""
    monkey = pytest.MonkeyPatch()
    monkey.setattr(synthetic, "BYTES_S", synthetic.BYTES_S * 3)
    path = synthetic.write_profile(tmp_path / "fast.jsonl.gz")
    monkey.undo()
    found = fit(path, "x").basis.parts.kernels
    rows = replace(found.rows, bytes_s=synthetic.BYTES_S)
    frame = rows.tables[op]
    from harness.latency.kernels import Kernels

    for dims, group in frame.groupby([c for c in ("n", "k", "vocab", "q_heads") if c in frame]):
        columns = columns_of(group, op)
        steps = {
            name: columns[name]
            for name in ("m", "rows", "batch", "query_tokens", "context")
            if name in columns
        }
        own = {name: columns[name][0] for name in columns if name not in steps}
        floor = floor_us(op, columns, rows.bytes_s, rows.flops_s)
        assert (Kernels(rows).us(op, own, **steps) >= floor).all(), dims


@settings(max_examples=60, deadline=None)
@given(shape=shapes())
def test_no_step_under_its_floor(shape):
    """Weights of the layers once, KV of the batch once, the arithmetic of every token."""
    model = load(str(profile_file()))
    if shape.tokens == 0:
        return
    weights = 2 * 32 * (6144 * 4096 + 4096 * 4096 + 3 * 4096 * 14336)
    kv = 4 * 32 * synthetic.KV_HEADS * synthetic.DIM * shape.kv_sum
    floor = max(weights / synthetic.BYTES_S, weights * shape.tokens / synthetic.FLOPS_S)
    assert model.predict(shape) >= 0.999 * (floor + kv / synthetic.BYTES_S)


@pytest.mark.parametrize("how", HOW)
@settings(max_examples=40, deadline=None)
@given(shape=shapes(), by=st.integers(1, 400))
def test_growth_never_saves(how, shape, by):
    model = load(str(profile_file()))
    if how == "sequences":
        shape = replace(shape, kv_max=shape.kv_sum / max(shape.decode_seqs, 1))
    if how == "prefix" and shape.prefill_tokens == 0:
        shape = grown(shape, "chunk", 1)
    before, after = (float(step_seconds(model.compiled, s.vector())) for s in (shape, grown(shape, how, by)))
    assert after >= before * (1 - 1e-9)


def test_all_models_run_the_same_compiled_code(path):
    for model in (load(str(path)), load("roofline:h200:llama3-8b"), load("h100-llama3-8b")):
        step_seconds(model.compiled, decode_shape(1, 0, 16, drafter_loaded=False).vector())
    assert len(step_seconds.signatures) == 1


def test_a_cut_profile_still_gives_a_model(tmp_path):
    """Without whole passes the gap is the assumed one, and says so."""
    model = load(str(synthetic.write_profile(tmp_path / "cut.jsonl.gz", whole=False)))
    told = model.explain(decode_shape(8, 0, 1024))
    assert told.parts["gap"] == HOST_S
    assert told.basis["gap"] == "assumed"
    assert model.provenance["gap"].startswith("assumed")


def test_an_unlisted_device_gives_a_model_without_kv_capacity(tmp_path):
    model = load(str(synthetic.write_profile(tmp_path / "mi.jsonl.gz", device="AMD Instinct MI300X")))
    assert model.kv_capacity_tokens is None
    assert model.predict(decode_shape(8, 2, 1024)) > 0


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_a_stored_model_is_the_same_model(path, tmp_path, suffix):
    from harness.latency import store

    model, file = load(str(path)), tmp_path / f"fitted{suffix}"
    store.write(model, file)
    again = load(str(file))
    for name, value in model.compiled._asdict().items():
        assert np.array_equal(value, getattr(again.compiled, name)), name
    assert again.coverage == model.coverage
    assert again.explain(decode_shape(8, 2, 999)) == model.explain(decode_shape(8, 2, 999))
    with pytest.raises(InputError, match="settled when it was fitted"):
        load(str(file), gap=0.1)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1, "compiled": {}}'])
def test_a_bad_store_is_named(tmp_path, text):
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"bad\.json' is not a fitted latency model"):
        load(str(file))


def test_committed_profiles_are_names(path, monkeypatch):
    monkeypatch.setattr(profile, "committed", lambda: {"h200": path})
    assert "h200:llama3-8b" in names()
    assert load("h200").predict(decode_shape(8, 0, 1024)) == load("h200:llama3-8b").predict(
        decode_shape(8, 0, 1024)
    )
    with pytest.raises(MissingPart, match=r"does not hold the kernels of llama3-70b; it holds: llama3-8b"):
        load("h200:llama3-70b")
    with pytest.raises(UnknownName, match="unknown model 'lama3-8b'; did you mean 'llama3-8b'"):
        load("h200:lama3-8b")
    with pytest.raises(InputError, match="contradicts"):
        load("h200:llama3-8b", model="qwen3-8b")


def test_bad_profiles_are_named(tmp_path, path):
    for name, data, message in (
        ("text.jsonl.gz", b"no gzip", "is not a kernel profile"),
        ("cut.jsonl.gz", path.read_bytes()[:500], "is not a kernel profile"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message):
            load(str(tmp_path / name))
    with pytest.raises(InputError, match="neither a profile file nor a folder"):
        load(str(tmp_path / "none.jsonl.gz"))
    with pytest.raises(InputError, match="holds a measured draft head"):
        load(str(path), draft="roofline")
    with pytest.raises(InputError, match="does not read"):
        load(str(path), model="llama3-8b:2")
