"""Invariant of every model: a step that grows never gets cheaper; vector and shape give the same seconds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.latency import LatencyModel, StepShape, load
from harness.latency.compiled import PARTS, step_seconds
from tests.latency.folders import REAL, write_folder

NAMES = ["h100-llama3-8b", "roofline:h200:llama3-8b", "roofline:rtxpro6000:qwen3-30b-a3b", "dense", "moe"]
NAMES += [path.name for path in REAL if path.is_dir()]


@cache
def model_of(name: str) -> LatencyModel:
    if name in ("dense", "moe"):
        folder = write_folder(Path(mkdtemp()) / name, moe=name == "moe")
        return load(str(folder), draft="roofline", ep=2 if name == "moe" else 1)
    path = next((p for p in REAL if p.name == name), None)
    if path is None:
        return load(name)
    return load(str(path), draft="roofline", ep=2 if "A3B" in name else 1)


@st.composite
def shapes(draw: st.DrawFn) -> StepShape:
    """A batch of level-to-skewed contexts, with or without one prompt chunk."""
    seqs = draw(st.integers(0, 300))
    k = draw(st.integers(0, 7))
    mean = draw(st.floats(1, 9000))
    longest = mean * draw(st.floats(1, 4)) if seqs > 1 else mean
    chunk = draw(st.integers(0 if seqs else 1, 2500))
    prefix = draw(st.integers(0, 12000)) if chunk else 0
    return StepShape(
        decode_seqs=seqs,
        query_tokens=1 + k,
        kv_sum=seqs * mean,
        kv_sq=seqs * mean * mean,
        kv_max=longest if seqs else 0.0,
        **prompt(chunk, prefix),
        sampled_rows=seqs * (1 + k) + (1 if chunk else 0),
        draft_passes=k,
        drafter_loaded=True,
    )


def prompt(chunk: int, prefix: float) -> dict[str, float]:
    return {
        "prefill_seqs": int(chunk > 0),
        "prefill_tokens": chunk,
        "prefill_kv": prefix,
        "prefill_pairs": chunk * prefix + chunk * (chunk + 1) / 2,
    }


def grown(shape: StepShape, how: str, by: int) -> StepShape:
    mean = shape.kv_sum / max(shape.decode_seqs, 1)
    if how == "context":
        wider = shape.decode_seqs * by
        return replace(shape, kv_sum=shape.kv_sum + wider, kv_max=shape.kv_max + by)
    if how == "longest":
        return replace(shape, kv_max=shape.kv_max + by)
    if how == "sequences":
        seqs = shape.decode_seqs + by
        rows = shape.sampled_rows + by * shape.query_tokens
        return replace(
            shape, decode_seqs=seqs, kv_sum=seqs * mean, kv_max=max(mean, shape.kv_max), sampled_rows=rows
        )
    if how == "chunk":
        return replace(shape, **prompt(shape.prefill_tokens + by, shape.prefill_kv))
    if how == "prefix":
        return replace(shape, **prompt(max(shape.prefill_tokens, 1), shape.prefill_kv + by))
    if how == "fresh prompt":
        pairs = shape.prefill_pairs + by * (by + 1) / 2
        return replace(
            shape,
            prefill_seqs=shape.prefill_seqs + 1,
            prefill_tokens=shape.prefill_tokens + by,
            prefill_pairs=pairs,
        )
    if how == "rows":
        return replace(shape, sampled_rows=shape.sampled_rows + by)
    if how == "experts":
        return replace(shape, expert_tokens=shape.tokens + by)
    assert how == "K"
    k = min(shape.query_tokens, 7)
    rows = shape.sampled_rows + shape.decode_seqs * (1 + k - shape.query_tokens)
    return replace(shape, query_tokens=1 + k, draft_passes=k, sampled_rows=rows)


HOW = ["context", "longest", "sequences", "chunk", "prefix", "fresh prompt", "rows", "experts", "K"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(shape=shapes(), by=st.integers(1, 400))
def test_growth_never_saves(name: str, how: str, shape: StepShape, by: int):
    model = model_of(name)
    if how == "sequences" and model.coverage is not None:
        shape = replace(shape, kv_max=shape.kv_sum / max(shape.decode_seqs, 1))
    if how == "prefix" and shape.prefill_tokens == 0:
        shape = grown(shape, "chunk", 1)
    larger = grown(shape, how, by)
    before, after = (float(step_seconds(model.compiled, s.vector())) for s in (shape, larger))
    assert after >= before * (1 - 1e-9)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(shape=shapes())
def test_predict_is_the_compiled_vector_and_the_sum_of_its_parts(name: str, shape: StepShape):
    model = model_of(name)
    seconds = model.predict(shape)
    told = model.explain(shape)
    assert seconds == step_seconds(model.compiled, shape.vector())
    assert told.seconds == pytest.approx(seconds)
    assert tuple(told.parts) == PARTS
    assert set(told.basis) == set(PARTS)
    assert min(told.parts.values()) >= 0


@pytest.mark.parametrize("name", NAMES)
def test_a_step_without_tokens_costs_nothing(name: str):
    assert model_of(name).predict(StepShape()) == 0.0


def test_every_model_runs_the_same_compiled_code():
    """One signature: models differ in their arrays only, so nothing is compiled twice."""
    for name in NAMES:
        step_seconds(model_of(name).compiled, StepShape(decode_seqs=1).vector())
    step_seconds(load("h100-llama3-8b", gap=0).compiled, StepShape(decode_seqs=1).vector())
    assert len(step_seconds.signatures) == 1
