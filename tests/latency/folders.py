"""Small synthetic table folders with known costs, and the real ones where the checkout has them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pandas as pd

SHARED = Path(__file__).parents[2] / "../shared/data/kernel_profiles/llmservingsim"
REAL = [SHARED / name for name in ("RTX4090", "RTXPRO6000", "RTXPRO6000_Qwen3-30B-A3B")]

CONFIG = {
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1024,
    "vocab_size": 1000,
}
MOE = {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
LAYERS = ("layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj")
TOKENS = (1, 2, 8, 64, 128, 512, 1024, 2048)
CHUNKS, PREFIXES = (0, 16, 256, 2048), (0, 256, 4096)
SEQS, CONTEXTS = (0, 1, 8, 64), (0, 16, 1024, 16384)


def attention_us(chunk: float, prefix: float, seqs: float, context: float) -> float:
    """Monotone in every size; decode is linear in sequences times context."""
    pairs = chunk * prefix + chunk * (chunk + 1) / 2
    return 2.0 + 1e-5 * pairs + 1e-3 * prefix + 1e-3 * seqs * context


def dense_us(layer: str, tokens: float) -> float:
    return 3.0 + 0.01 * tokens + LAYERS.index(layer) if layer in LAYERS else 1.0 + 0.001 * tokens


def write_folder(path: Path, moe: bool = False, hardware: str = "RTX4090") -> Path:
    """A complete folder; `hardware` unknown to the specifications gives tables without a floor."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "model_config.json").write_text(json.dumps(CONFIG | (MOE if moe else {})))
    (path / "meta.yaml").write_text(f"hardware: {hardware}\nmodel: test/tiny\n")
    names = (*LAYERS, "embedding", "final_layernorm")
    dense = [(name, t, dense_us(name, t)) for name in names for t in TOKENS]
    pd.DataFrame(dense, columns=["layer", "tokens", "time_us"]).to_csv(path / "dense.csv", index=False)
    rows = [
        (name, s, 20 + 0.1 * s) for name in ("lm_head", "sampler") for s in (1, 2, 4, 8, 16, 64, 128, 256)
    ]
    columns = ["layer", "sequences", "time_us"]
    pd.DataFrame(rows, columns=columns).to_csv(path / "per_sequence.csv.gz", index=False)
    pd.DataFrame(
        _attention(), columns=["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"]
    ).to_csv(path / "attention.csv", index=False)
    pd.DataFrame(_skew()).to_csv(path / "skew.csv", index=False)
    if moe:
        cells = [(t, e, 5 + 2 * e + 0.05 * t) for t in TOKENS for e in (2, 4, 16) if e <= 2 * t]
        pd.DataFrame(cells, columns=["tokens", "activated_experts", "time_us"]).to_csv(
            path / "moe.csv", index=False
        )
    return path


def _attention() -> list[tuple[float, ...]]:
    found = []
    for chunk, prefix, seqs, context in itertools.product(CHUNKS, PREFIXES, SEQS, CONTEXTS):
        empty = chunk == 0 and seqs == 0
        if empty or (seqs == 0) != (context == 0) or (chunk == 0 and prefix > 0):
            continue
        found.append((chunk, prefix, seqs, context, attention_us(chunk, prefix, seqs, context)))
    return found


def _skew() -> list[dict[str, object]]:
    """Batches that lie exactly a tenth of the way from mean to longest, a quarter when prompts share."""
    return [
        {"regime": regime, "n": n, "t_mean_us": 10.0, "t_max_us": 30.0, "t_skew_us": 10.0 + 20.0 * alpha}
        for regime, alpha in (("pure", 0.1), ("mixed", 0.25))
        for n in (2, 8, 64)
    ]
