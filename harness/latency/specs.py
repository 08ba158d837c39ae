"""GPU and model specifications, and the assumptions of the analytic model, from `specs.toml`."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import InputError, UnknownName

BYTES = 2
"""Per weight, activation and KV element: bf16 throughout."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator. Bandwidths in GB/s (1e9), arithmetic in dense bf16 TFLOP/s, memory in GB (1e9)."""

    name: str
    bandwidth_gbs: float
    bf16_tflops: float
    memory_gb: float
    link_gbs: float
    """To another GPU of the same machine, one direction."""
    link_latency_us: float
    """Of one collective."""
    source: str

    @property
    def bytes_s(self) -> float:
        return self.bandwidth_gbs * 1e9

    @property
    def flops_s(self) -> float:
        return self.bf16_tflops * 1e12


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer with grouped-query attention; sizes in elements."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Of the MLP, or of one expert."""
    vocab: int
    experts: int = 0
    """0: a dense MLP."""
    experts_per_token: int = 0
    qk_norm: bool = False
    """RMSNorm of each query and key head before the rotary embedding (Qwen3)."""

    @property
    def qkv_weights(self) -> int:
        return self.hidden * self.head_dim * (self.heads + 2 * self.kv_heads)

    @property
    def o_weights(self) -> int:
        return self.hidden * self.head_dim * self.heads

    @property
    def mlp_weights(self) -> int:
        """Gate, up and down of the MLP or of one expert."""
        return 3 * self.hidden * self.intermediate

    @property
    def weights(self) -> int:
        """All matrices: layers, embedding, LM head."""
        mlp = self.mlp_weights * max(self.experts, 1) + self.hidden * self.experts
        return self.layers * (self.qkv_weights + self.o_weights + mlp) + 2 * self.vocab * self.hidden

    @property
    def kv_bytes_token(self) -> int:
        """KV of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES


@dataclass(frozen=True, slots=True)
class Assumed:
    """Figures that no specification gives; each is explained where it stands, in `specs.toml`."""

    bandwidth_share: float
    compute_share: float
    attention_compute_share: float
    attention_skew: float
    graph_gap_us: float
    eager_gap_us: float
    small_kernel_us: float
    step_gap_us: float
    draft_pass_us: float
    draft_vocab: int
    memory_share: float
    reserve_gb: float


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("specs.toml").read_text())


def gpu_names() -> list[str]:
    return sorted(_tables()["gpu"])


def model_names() -> list[str]:
    return sorted(_tables()["model"])


def gpu(name: str) -> Gpu:
    """The GPU called `name`; raises UnknownName."""
    if name not in _tables()["gpu"]:
        raise UnknownName("GPU", name, gpu_names())
    return Gpu(**_tables()["gpu"][name])


def gpu_of_device(device: str) -> Gpu | None:
    """The listed GPU whose name stands in a driver's device name; None if there is none."""
    plain = re.sub(r"[^a-z0-9]", "", device.lower())
    found = [name for name in gpu_names() if name in plain]
    return gpu(max(found, key=len)) if found else None


def model(name: str) -> ModelShape:
    """The model called `name`; raises UnknownName."""
    if name not in _tables()["model"]:
        raise UnknownName("model", name, model_names())
    return ModelShape(**_tables()["model"][name])


def assumed() -> Assumed:
    return Assumed(**_tables()["assumed"])


def model_from_config(path: Path, name: str) -> ModelShape:
    """Read a Hugging Face `config.json` of the model called `name`.

    Raises InputError where a size is missing or not a count.
    """
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"model configuration {path} cannot be read: {error}") from error

    def size(*keys: str, default: int | None = None) -> int:
        value = next((config[key] for key in keys if config.get(key)), default)
        if not isinstance(value, int) or value < 0:
            raise InputError(f"model configuration {path} has {keys[0]} = {value!r}; it must be a count")
        return value

    experts = size("num_experts", "num_local_experts", default=0)
    heads = size("num_attention_heads")
    return ModelShape(
        name=name,
        layers=size("num_hidden_layers"),
        hidden=size("hidden_size"),
        heads=heads,
        kv_heads=size("num_key_value_heads", default=heads),
        head_dim=size("head_dim", default=size("hidden_size") // heads),
        intermediate=size("moe_intermediate_size", "intermediate_size")
        if experts
        else size("intermediate_size"),
        vocab=size("vocab_size"),
        experts=experts,
        experts_per_token=size("num_experts_per_tok", default=0),
    )


def kv_capacity(spec: Gpu, shape: ModelShape, gpus: int = 1, ep: int = 1) -> int | None:
    """KV tokens that fit in `gpus` GPUs beside the weights (experts over `ep` ranks); None if none do."""
    a = assumed()
    away = shape.layers * shape.mlp_weights * shape.experts * (1 - 1 / ep)
    usable = gpus * (a.memory_share * spec.memory_gb - a.reserve_gb) * 1e9 - (shape.weights - away) * BYTES
    return int(usable // shape.kv_bytes_token) if usable > 0 else None
