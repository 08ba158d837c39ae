"""Vidur's tables, and Frontier's with the same columns: `<gpu>_<model>_mlp.csv.gz`, `<gpu>_..._attention*`.

`time_stats.<operator>.median` are milliseconds of one layer, by tokens and tensor-parallel size. Sizes of
the matrices follow from the model columns (n_embd, n_head, n_kv_head, n_expanded_embd) of the same row.
Vidur adds the residual in a kernel of its own; norm and addition are one operation here, so their times are
added. There is no LM head, sampler or verify-shaped attention.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.errors import InputError
from harness.latency import specs
from harness.latency.curves import CLOCK_HEADROOM
from harness.latency.rows import KernelRows, checked

ALIAS = {"a800": "a100"}
"""Cards that differ from a listed one in their links only."""
MLP = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "num_tokens", "num_tensor_parallel_workers")
ATTENTION = (
    "n_embd",
    "n_q_head",
    "n_kv_head",
    "num_tensor_parallel_workers",
    "batch_size",
    "prefill_chunk_size",
    "kv_cache_size",
    "is_prefill",
)


def reads(folder: Path) -> bool:
    return any(_files(folder))


def _files(folder: Path) -> list[Path]:
    found = [*folder.glob("*_mlp.csv*"), *folder.glob("*_attention*.csv*")]
    return sorted(path for path in found if card(path) is not None)


def card(path: Path) -> str | None:
    """The card a file's name begins with, as `specs.toml` calls it."""
    name = path.name.split("_")[0].lower()
    name = ALIAS.get(name, name)
    return name if name in specs.gpu_names() else None


def sources(folder: Path) -> list[KernelRows]:
    """One `KernelRows` per card in the folder. Raises InputError where a column or value is bad."""
    by_card: dict[str, list[Path]] = {}
    for path in _files(folder):
        by_card.setdefault(card(path) or "", []).append(path)
    return [_read(folder, name, paths) for name, paths in sorted(by_card.items())]


def _read(folder: Path, name: str, paths: list[Path]) -> KernelRows:
    gpu = specs.gpu(name)
    parts: dict[str, list[pd.DataFrame]] = {}
    for path in paths:
        found = _attention(path) if "_attention" in path.name else _mlp(path)
        for op, frame in found.items():
            parts.setdefault(op, []).append(frame)
    return KernelRows(
        name=f"{folder.name} {name}",
        source="measured: Vidur tables " + ", ".join(p.name.split(".")[0] for p in paths),
        device=paths[0].name.split("_")[0].upper(),
        gpu=gpu,
        bytes_s=gpu.bytes_s,
        flops_s=gpu.flops_s * CLOCK_HEADROOM,
        tables={op: checked(op, pd.concat(frames), str(folder)) for op, frames in parts.items()},
        notes=(
            "No verify-shaped attention: decode rows (KV read once) with an arithmetic floor.",
            "LM head and sampler are not in the tables: analytic.",
            "Times have a resolution of 1 us, and small matrices were timed with a warm cache.",
        ),
    )


def _mlp(path: Path) -> dict[str, pd.DataFrame]:
    d = _table(path, MLP)
    tp, hidden = d["num_tensor_parallel_workers"], d["n_embd"]
    head_dim = hidden // d["n_head"]
    q_heads, kv_heads = d["n_head"] // tp, (d["n_kv_head"] // tp).clip(lower=1)
    inner = d["n_expanded_embd"] // tp
    up = inner * (2 if "use_gated_mlp" not in d or bool(d["use_gated_mlp"].all()) else 1)
    matrices = {
        "attn_pre_proj": ((q_heads + 2 * kv_heads) * head_dim, hidden),
        "attn_post_proj": (hidden, q_heads * head_dim),
        "mlp_up_proj": (up, hidden),
        "mlp_down_proj": (hidden, inner),
    }
    tokens = d["num_tokens"]
    gemm = [
        pd.DataFrame({"m": tokens, "n": n, "k": k, "us": _us(d, op, path)}) for op, (n, k) in matrices.items()
    ]
    norm = _us(d, "input_layernorm", path) + _us(d, "add", path)
    heads = {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "qk_norm": 0}
    return {
        "gemm": pd.concat(gemm),
        "rmsnorm": pd.DataFrame({"rows": tokens, "hidden": hidden, "us": norm}),
        "rotary": pd.DataFrame({"tokens": tokens, **heads, "us": _us(d, "attn_rope", path)}),
        "swiglu": pd.DataFrame({"rows": tokens, "intermediate": inner, "us": _us(d, "mlp_act", path)}),
        "embedding": pd.DataFrame({"tokens": tokens, "hidden": hidden, "us": _us(d, "emb", path)}),
    }


def _attention(path: Path) -> dict[str, pd.DataFrame]:
    d = _table(path, ATTENTION)
    tp = d["num_tensor_parallel_workers"]
    d = d.assign(
        q_heads=d["n_q_head"] // tp,
        kv_heads=(d["n_kv_head"] // tp).clip(lower=1),
        head_dim=d["n_embd"] // d["n_q_head"],
    )
    names = {"batch_size": "batch", "prefill_chunk_size": "chunk", "kv_cache_size": "prefix"}
    prompt = d[d["is_prefill"].astype(str) == "True"].rename(columns=names)
    prompt = prompt.assign(us=_us(prompt, "attn_prefill", path))
    decode = d[d["is_prefill"].astype(str) != "True"].assign(query_tokens=1)
    decode = decode.rename(columns={"batch_size": "batch", "kv_cache_size": "context"})
    decode = decode.assign(us=_us(decode, "attn_decode", path))
    found = {"attention": decode[decode["context"] > 0], "prefill": prompt}
    return {op: frame[frame["us"] > 0] for op, frame in found.items() if len(frame)}


def _us(frame: pd.DataFrame, op: str, path: Path) -> pd.Series:
    column = f"time_stats.{op}.median"
    if column not in frame:
        raise InputError(f"{path} lacks column {column!r}")
    return pd.to_numeric(frame[column], errors="coerce") * 1e3


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from error
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise InputError(f"{path} lacks column {missing[0]!r}; it has {', '.join(frame.columns[-12:])}")
    return frame
