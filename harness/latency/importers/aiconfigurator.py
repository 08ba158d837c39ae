"""AIConfigurator's tables: `gemm_perf`, `context_attention_perf`, `generation_attention_perf` (Parquet).

Latencies are milliseconds, medians of kernels as vLLM calls them. Only bf16 rows without a sliding window
are read. A `generation_attention` row has `isl` + `step` tokens of context and one query token; a
`context_attention` row prompts of `isl` tokens with no prefix. There is no verify-shaped attention, no norm,
rotary embedding, activation or sampler.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.errors import InputError
from harness.latency import specs
from harness.latency.curves import CLOCK_HEADROOM
from harness.latency.rows import KernelRows, checked

GEMM, CONTEXT, GENERATION = (
    f"{name}_perf.parquet" for name in ("gemm", "context_attention", "generation_attention")
)
BF16 = "bfloat16"
HEADS = {"num_heads": "q_heads", "num_key_value_heads": "kv_heads", "batch_size": "batch"}


def reads(folder: Path) -> bool:
    return (folder / GEMM).is_file()


def sources(folder: Path) -> list[KernelRows]:
    """The one GPU of the folder. Raises InputError where a file or column is missing or bad."""
    gemm = _table(folder, GEMM, ("device", "version", "gemm_dtype", "m", "n", "k", "latency"))
    gemm = gemm[gemm["gemm_dtype"] == BF16]
    if gemm.empty:
        raise InputError(f"{folder / GEMM} has no {BF16} rows")
    device = str(gemm["device"].iloc[0])
    gpu = specs.gpu_of_device(device)
    if gpu is None:
        raise InputError(f"{folder / GEMM}: device {device!r} is none of {', '.join(specs.gpu_names())}")
    generation = _attention(folder, GENERATION).assign(query_tokens=1)
    generation["context"] = generation["isl"] + generation["step"]
    prompts = _attention(folder, CONTEXT).rename(columns={"isl": "chunk"}).rename(columns={"step": "prefix"})
    found = {"gemm": gemm, "attention": generation, "prefill": prompts}
    return [
        KernelRows(
            name=folder.name,
            source=f"measured: AIConfigurator tables {folder.name} (vLLM {gemm['version'].iloc[0]})",
            device=device,
            gpu=gpu,
            bytes_s=gpu.bytes_s,
            flops_s=gpu.flops_s * CLOCK_HEADROOM,
            tables={
                op: checked(op, frame.assign(us=frame["latency"] * 1e3), str(folder))
                for op, frame in found.items()
            },
            model_grid=True,
            notes=(
                "No verify-shaped attention: decode rows (KV read once) with an arithmetic floor.",
                "Norms, rotary embedding, activation and sampler are not in the tables: analytic.",
                "Prompts behind a prefix are not in the tables: priced as a prompt of the same pairs.",
            ),
        )
    ]


def _attention(folder: Path, name: str) -> pd.DataFrame:
    columns = (*HEADS, "isl", "step", "head_dim", "attn_dtype", "kv_cache_dtype", "window_size", "latency")
    frame = _table(folder, name, columns)
    plain = (frame["attn_dtype"] == BF16) & (frame["kv_cache_dtype"] == BF16) & (frame["window_size"] == 0)
    return frame[plain].rename(columns=HEADS)


def _table(folder: Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(folder / name)
    except (OSError, ValueError) as reason:
        raise InputError(f"{folder / name} cannot be read as Parquet: {reason}") from reason
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise InputError(f"{folder / name} lacks column {missing[0]!r}; it has {', '.join(frame.columns)}")
    return frame
