"""LLMServingSim's folders as kernel rows, for cross-checks; `measured` composes whole steps from them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.errors import InputError
from harness.latency import tables
from harness.latency.curves import CLOCK_HEADROOM
from harness.latency.rows import KernelRows, checked
from harness.latency.specs import ModelShape


def reads(folder: Path) -> bool:
    return any((folder / f"dense{suffix}").is_file() for suffix in (".csv", ".csv.gz"))


def sources(folder: Path) -> list[KernelRows]:
    """The one card of the folder, single-kind attention rows only. Raises as `tables.read`."""
    t = tables.read(folder)
    if t.gpu is None:
        raise InputError(
            f"{folder} names no card of specs.toml, so its rows cannot be held against another's"
        )
    found = _dense(t.dense, t.shape) | _attention(t.attention, t.shape)
    head = t.per_sequence[t.per_sequence["layer"] == "lm_head"]
    found["lm_head"] = pd.DataFrame(
        {"rows": head["sequences"], "vocab": t.shape.vocab, "hidden": t.shape.hidden, "top": 1, "mapped": 0}
    ).assign(us=head["time_us"])
    return [
        KernelRows(
            name=folder.name,
            source=f"measured: {folder.name} (LLMServingSim layout)",
            device=t.gpu.name,
            gpu=t.gpu,
            bytes_s=t.gpu.bytes_s,
            flops_s=t.gpu.flops_s * CLOCK_HEADROOM,
            tables={op: checked(op, frame, str(folder)) for op, frame in found.items() if len(frame)},
        )
    ]


def _dense(dense: pd.DataFrame, shape: ModelShape) -> dict[str, pd.DataFrame]:
    wide = shape.head_dim * (shape.heads + 2 * shape.kv_heads)
    matrices = {"qkv_proj": (wide, shape.hidden), "o_proj": (shape.hidden, shape.heads * shape.head_dim)}
    if not shape.experts:
        matrices["gate_up_proj"] = (2 * shape.intermediate, shape.hidden)
        matrices["down_proj"] = (shape.hidden, shape.intermediate)

    def rows(layer: str) -> pd.DataFrame:
        return dense[dense["layer"] == layer].rename(columns={"time_us": "us"})

    gemm = [rows(layer).assign(n=n, k=k) for layer, (n, k) in matrices.items()]
    norm = rows("layernorm").assign(hidden=shape.hidden)
    return {
        "gemm": pd.concat(gemm).rename(columns={"tokens": "m"}),
        "rmsnorm": norm.rename(columns={"tokens": "rows"}),
    }


def _attention(rows: pd.DataFrame, shape: ModelShape) -> dict[str, pd.DataFrame]:
    heads = {"q_heads": shape.heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim}
    rows = rows.rename(columns={"time_us": "us", "kv_prefill": "prefix", "prefill_chunk": "chunk"})
    decode = rows[(rows["chunk"] == 0) & (rows["n_decode"] > 0)].assign(query_tokens=1, **heads)
    decode = decode.rename(columns={"n_decode": "batch", "kv_decode": "context"})
    prompts = rows[rows["n_decode"] == 0].assign(batch=1, **heads)
    return {"attention": decode, "prefill": prompts}
