"""Public tables: small ones with known costs in each tool's own columns, and the real ones where present."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError, MissingPart
from harness.latency import StepShape, decode_shape, importers, load
from harness.latency.catalog import fit
from harness.latency.compiled import step_seconds
from harness.latency.crosscheck import cross_check
from harness.latency.rowerror import op_errors
from harness.latency.rows import OPS, checked, columns_of, floor_us
from harness.latency.specs import gpu
from tests.latency.folders import SHARED, write_folder
from tests.latency.test_growth import HOW, grown, prompt, shapes

TABLES = SHARED.parent
AIC, VIDUR = TABLES / "aiconfigurator_h200_vllm0.24", TABLES / "vidur"
real = pytest.mark.skipif(not AIC.is_dir(), reason="shared data absent")
REAL = [AIC, VIDUR, TABLES / "frontier", *(SHARED / n for n in ("RTX4090", "RTXPRO6000"))]
MATRICES = {"attn_pre_proj": (6144, 4096), "attn_post_proj": (4096, 4096), "mlp_up_proj": (28672, 4096)}
MATRICES |= {"mlp_down_proj": (4096, 14336)}
SMALL = {"input_layernorm": 3.0, "add": 2.0, "attn_rope": 4.0, "mlp_act": 5.0, "emb": 6.0}
TOKENS = (1, 8, 64, 512, 4096)


def gemm_ms(m, n, k):
    return 5e-3 + np.maximum(2 * n * k / 1.7e12, 2 * m * n * k / 250e12) * 1e3


def write_vidur(path: Path) -> Path:
    """An A100's MLP table of Llama-3-8B, and attention of a model with twice its KV heads per batch."""
    path.mkdir(parents=True, exist_ok=True)
    model = {"n_head": 32, "n_kv_head": 8, "n_embd": 4096, "n_expanded_embd": 14336, "use_gated_mlp": True}
    rows = []
    for tokens in TOKENS:
        row = {f"time_stats.{op}.median": gemm_ms(tokens, n, k) for op, (n, k) in MATRICES.items()}
        row |= {f"time_stats.{op}.median": us * 1e-3 for op, us in SMALL.items()}
        rows.append(row | model | {"num_tokens": tokens, "num_tensor_parallel_workers": 1})
    pd.DataFrame(rows).to_csv(path / "a100_Meta-Llama-3-8B_mlp.csv.gz", index=False)
    decode = [
        {"batch_size": b, "kv_cache_size": c, "time_stats.attn_decode.median": 0.01 + b * c * 2e-6}
        for b, c in itertools.product((1, 8, 64, 128), (32, 512, 4096))
    ]
    prefill = [
        {
            "prefill_chunk_size": c,
            "kv_cache_size": p,
            "time_stats.attn_prefill.median": 0.02 + c * (c / 2 + p) * 1e-7,
        }
        for c, p in itertools.product((64, 512, 4096), (0, 512, 4096))
    ]
    both = pd.concat(
        [pd.DataFrame(decode).assign(is_prefill=False), pd.DataFrame(prefill).assign(is_prefill=True)]
    )
    both = both.assign(n_embd=8192, n_q_head=64, n_kv_head=8, num_tensor_parallel_workers=2)
    both.fillna({"batch_size": 1, "prefill_chunk_size": 0}).to_csv(path / "a100_x_attention.csv", index=False)
    return path


def write_aic(path: Path, device: str = "NVIDIA H200") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    sizes = (1024, 4096, 8192, 16384, 32768)
    head = {"device": device, "version": "0.24.0"}
    gemm = [
        {**head, "gemm_dtype": dtype, "m": m, "n": n, "k": k, "latency": gemm_ms(m, n, k) / scale}
        for m, n, k in itertools.product(TOKENS, sizes, sizes)
        for dtype, scale in (("bfloat16", 1.0), ("fp8", 2.0))
    ]
    pd.DataFrame(gemm).to_parquet(path / "gemm_perf.parquet")
    common = {"head_dim": 128, "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "window_size": 0}
    heads = [(h, kv) for h in (16, 32, 64) for kv in (4, 8)]
    decode, prompts = [], []
    for (h, kv), b, c in itertools.product(heads, (1, 16, 256), (16, 512, 8192)):
        own = {**common, "num_heads": h, "num_key_value_heads": kv, "batch_size": b}
        decode.append({**own, "isl": 1, "step": c - 1, "latency": 8e-3 + b * c * kv * 512 / 4e12 * 1e3})
        tokens = b * c * (c + 1) / 2
        prompts.append({**own, "isl": c, "step": 0, "latency": 9e-3 + 4 * tokens * h * 128 / 500e12 * 1e3})
    other = {**decode[0], "window_size": 128, "latency": 99.0}
    pd.DataFrame([*decode, other]).to_parquet(path / "generation_attention_perf.parquet")
    pd.DataFrame(prompts).to_parquet(path / "context_attention_perf.parquet")
    return path


@pytest.fixture
def vidur(tmp_path):
    return write_vidur(tmp_path / "vidur")


@pytest.fixture
def aic(tmp_path):
    return write_aic(tmp_path / "aic")


def test_vidur_columns_become_kernels(vidur):
    (rows,) = importers.sources(vidur)
    assert rows.gpu == gpu("a100")
    gemm = rows.tables["gemm"]
    own = gemm[(gemm["n"] == 28672) & (gemm["m"] == 64)]
    assert own["us"].tolist() == pytest.approx([gemm_ms(64, 28672, 4096) * 1e3])
    assert rows.tables["rmsnorm"]["us"].tolist() == pytest.approx([5.0] * len(TOKENS))
    assert set(rows.tables["attention"]["q_heads"]) == {32.0}
    assert set(rows.tables["attention"]["kv_heads"]) == {4.0}


def test_a_vidur_step_is_the_sum_of_its_kernels(vidur):
    """Eight sequences with 8 KV heads cost what sixteen with 4 do; norm and addition run twice a layer."""
    model = load(str(vidur))
    parts = model.explain(decode_shape(8, 0, 512, drafter_loaded=False)).parts
    layer = sum(gemm_ms(8, n, k) for n, k in MATRICES.values()) * 1e3 + 2 * 5.0 + 4.0 + 5.0
    gaps = 32 * 10 * 0.5
    assert parts["tokens"] * 1e6 == pytest.approx(32 * layer + 5.0 + 6.0 + gaps, rel=0.01)
    assert parts["attention"] * 1e6 == pytest.approx(32 * (10 + 16 * 512 * 2e-3), rel=0.05)
    assert "attention from 32/4 heads" in model.provenance["converted from other heads"]
    basis = model.explain(decode_shape(4, 0, 512, drafter_loaded=False)).basis
    assert (basis["tokens"], basis["attention"]) == ("interpolated", "interpolated")
    assert model.explain(decode_shape(8, 0, 512, drafter_loaded=False)).basis["tokens"] == "measured"


def test_aiconfigurator_composes_between_its_sizes(aic):
    """28672 x 4096 is not in the table, 4096 x 14336 neither: interpolated over n and k."""
    (rows,) = importers.sources(aic)
    assert len(rows.tables["gemm"]) == len(TOKENS) * 25
    assert rows.tables["attention"]["us"].max() < 99e3
    model = load(str(aic))
    parts = model.explain(decode_shape(64, 0, 512, drafter_loaded=False)).parts
    matrices = 32 * sum(gemm_ms(64, n, k) for n, k in MATRICES.values())
    assert parts["tokens"] * 1e3 == pytest.approx(matrices, rel=0.15)
    true = 32 * (8e-3 + 64 * 512 * 8 * 512 / 4e12 * 1e3)
    assert parts["attention"] * 1e3 == pytest.approx(true, rel=0.05)
    assert "sampler" in model.provenance["analytic, not measured"]


def test_prompts_behind_a_prefix_cost_their_pairs(aic):
    model = load(str(aic))
    pairs = 512 * 4096 + 512 * 513 / 2
    alone = (np.sqrt(1 + 8 * pairs) - 1) / 2
    behind = model.explain(StepShape(**prompt(512, 4096))).parts["attention"]
    plain = model.explain(StepShape(**prompt(int(alone), 0))).parts["attention"]
    assert behind == pytest.approx(plain, rel=0.1)


def test_ranks_exchange_what_no_profile_holds(aic):
    """Two all-reduces a layer come on top of a rank's own kernels and its launch gaps."""
    parts = fit(aic, "x", "llama3-8b:tp4").basis.parts
    rows = np.array([64.0])
    own = parts.tokens_s(rows)[0] + 32 * parts.reduced_s(rows)[0]
    told = load(str(aic), model="llama3-8b:tp4").explain(decode_shape(64, 0, 512, drafter_loaded=False))
    assert told.parts["tokens"] == pytest.approx(own + 32 * 10 * 0.5e-6, rel=0.01)
    assert parts.reduced_s(rows)[0] > 2 * 6e-6


def test_other_models_and_ranks(aic, vidur):
    shape = decode_shape(32, 0, 1024, drafter_loaded=False)
    one, four = (load(str(aic), model=name).predict(shape) for name in ("llama3-8b", "llama3-8b:tp4"))
    assert four < one
    with pytest.raises(MissingPart, match="does not hold the kernels of qwen3-8b; it holds: llama3-8b"):
        load(str(vidur), model="qwen3-8b")
    with pytest.raises(MissingPart, match="does not hold the kernels of qwen3-30b-a3b"):
        load(str(aic), model="qwen3-30b-a3b")
    assert load(str(aic), draft="roofline").max_k == 16
    with pytest.raises(InputError, match="no drafter"):
        load(str(aic)).predict(decode_shape(1, 0, 16))


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("gemm_perf.parquet", "latency", float("nan"), "us = nan; it must be a positive time"),
        ("gemm_perf.parquet", "m", -1, "m = -1; it must be a finite size"),
        ("generation_attention_perf.parquet", "latency", 0.0, "us = 0.0; it must be a positive time"),
    ],
)
def test_bad_values_are_named(aic, name, column, value, message):
    frame = pd.read_parquet(aic / name)
    frame.loc[0, column] = value
    frame.to_parquet(aic / name)
    with pytest.raises(InputError, match=message):
        load(str(aic))


def test_missing_columns_and_files_are_named(aic, vidur, tmp_path):
    frame = pd.read_parquet(aic / "gemm_perf.parquet")
    frame.drop(columns="k").to_parquet(aic / "gemm_perf.parquet")
    with pytest.raises(InputError, match="lacks column 'k'"):
        load(str(aic))
    (aic / "gemm_perf.parquet").write_bytes(b"none")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        load(str(aic))
    mlp = vidur / "a100_Meta-Llama-3-8B_mlp.csv.gz"
    pd.read_csv(mlp).drop(columns="time_stats.attn_rope.median").to_csv(mlp, index=False)
    with pytest.raises(InputError, match=r"lacks column 'time_stats\.attn_rope\.median'"):
        load(str(vidur))
    with pytest.raises(InputError, match="device 'Abacus' is none of"):
        load(str(write_aic(tmp_path / "other", device="Abacus")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="layout of none of the known tables"):
        importers.sources(tmp_path / "empty")


def test_rows_lacking_a_column_are_named():
    with pytest.raises(InputError, match="here: rmsnorm rows lack 'hidden'"):
        checked("rmsnorm", pd.DataFrame({"rows": [1.0], "us": [2.0]}), "here")


def test_a_source_against_itself_and_the_roofline(vidur, tmp_path):
    (check,) = cross_check(str(vidur), str(vidur))
    assert {r.op: r.median for r in check.ratios} == dict.fromkeys([r.op for r in check.ratios], 1.0)
    (roof,) = cross_check(str(vidur), "roofline:a100")
    gemm = next(r for r in roof.ratios if r.op == "gemm")
    assert 0.8 < gemm.median < 2.0
    assert (gemm.shapes, gemm.large_shapes) == (20, 20)
    folder = write_folder(tmp_path / "tables")
    with pytest.raises(InputError, match="have no shape in common"):
        cross_check(str(folder), str(vidur))
    with pytest.raises(InputError, match="name it second"):
        cross_check("roofline:a100", str(vidur))


def test_costs_are_those_of_the_kernels():
    """One truth: the profiler's own cost functions, asked in a process of their own (they import Triton)."""
    import json
    import subprocess
    import sys

    pytest.importorskip("triton")
    source = (
        "import json; from dataclasses import asdict; from kernels.models import QWEN3_8B as m;"
        "from kernels.registry import OPS;"
        "print(json.dumps({n: [(asdict(s), asdict(o.cost(s))) for s in o.shapes(m)[:40]]"
        " for n, o in OPS.items() if not n.startswith('kl') and not o.composed}))"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", source], cwd=root, capture_output=True, text=True, check=True)
    theirs = json.loads(out.stdout)
    assert set(theirs) <= set(OPS)
    for op, cases in theirs.items():
        level = [(s, c) for s, c in cases if s.get("skew", 1) == 1]
        frame = pd.DataFrame([s for s, _ in level])
        does = OPS[op].cost(columns_of(frame, op))
        assert does.flops == pytest.approx([c["flops"] for _, c in level]), op
        assert does.cold == pytest.approx([c["cold_bytes"] for _, c in level], rel=1e-6), op


@real
@pytest.mark.parametrize("folder", REAL, ids=lambda p: p.name)
def test_real_tables_are_predicted_within_five_percent(folder):
    for rows in importers.sources(folder):
        errors = op_errors(rows)
        assert errors[-1].op == "all"
        assert {e.op: e.mean for e in errors if e.mean >= 0.05} == {}


@real
@pytest.mark.parametrize(("folder", "card"), [(AIC, "h200"), (VIDUR, "a100")], ids=["h200", "a100"])
def test_real_steps_are_close_to_the_roofline_of_the_same_card(folder, card):
    roof, model = load(f"roofline:{card}:llama3-8b"), load(str(folder), draft="roofline")
    for shape in (decode_shape(1, 0, 1024), decode_shape(64, 0, 4096), decode_shape(64, 4, 4096)):
        assert 0.95 < model.predict(shape) / roof.predict(shape) < 1.3
    cost = [model.predict(decode_shape(64, k, 4096)) for k in (0, 4)]
    assert cost[1] / cost[0] < 2.0


@real
@pytest.mark.parametrize("op", ["gemm", "attention"])
def test_real_predictions_keep_the_floor(op):
    """A seventh of the H200's own shapes: never under the data sheet's ceilings."""
    from harness.latency.kernels import Kernels

    (rows,) = importers.sources(AIC)
    frame = rows.tables[op].iloc[::7]
    for dim, group in frame.groupby("head_dim" if op == "attention" else "k"):
        columns = columns_of(group, op)
        dims = {"head_dim": dim} if op == "attention" else {}
        steps = {name: value for name, value in columns.items() if name not in dims}
        predicted = Kernels(rows).us(op, dims, **steps)
        assert (predicted >= floor_us(op, columns, rows.bytes_s, rows.flops_s)).all()


@real
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("folder", [AIC, VIDUR], ids=["h200", "a100"])
@settings(max_examples=25, deadline=None)
@given(shape=shapes(), by=st.integers(1, 400))
def test_growth_never_saves_on_real_tables(folder, how, shape, by):
    model = load(str(folder), draft="roofline")
    if how == "sequences":
        shape = replace(shape, kv_max=shape.kv_sum / max(shape.decode_seqs, 1))
    if how == "prefix" and shape.prefill_tokens == 0:
        shape = grown(shape, "chunk", 1)
    before, after = (float(step_seconds(model.compiled, s.vector())) for s in (shape, grown(shape, how, by)))
    assert after >= before * (1 - 1e-9)
