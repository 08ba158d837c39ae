"""Geometry of the profiled models, per rank: what one GPU of a tensor-parallel group computes.

Figures from the models' published configurations (Hugging Face `config.json`): Llama-3-8B,
Llama-3-70B, Qwen3-8B; the EAGLE-3 heads are one layer of the target's geometry whose attention
input is 2 x hidden, with a pruned draft vocabulary of 32,000 (`yuhuili/EAGLE3-LLaMA3.1-Instruct-8B`
and its siblings).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernels.common import lookup


@dataclass(frozen=True, slots=True)
class Model:
    """Sizes of one rank. With tp > 1, heads, intermediate and vocabularies are already divided."""

    name: str
    layers: int
    hidden: int
    q_heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    draft_vocab: int
    head_dim: int = 128
    qk_norm: bool = False
    """RMSNorm on each query and key head before the rotary embedding (Qwen3)."""
    tp: int = 1

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.q_heads // self.kv_heads

    @property
    def qkv(self) -> int:
        """Output width of the fused QKV projection."""
        return (self.q_heads + 2 * self.kv_heads) * self.head_dim

    def shard(self, tp: int) -> Model:
        """One rank of `tp`; raises ValueError where a size does not divide."""
        for field in ("q_heads", "kv_heads", "intermediate", "vocab", "draft_vocab"):
            if getattr(self, field) % tp:
                raise ValueError(
                    f"{field} of {self.name} is {getattr(self, field)}; it must divide by tp={tp}"
                )
        return replace(
            self,
            name=f"{self.name}-tp{tp}",
            q_heads=self.q_heads // tp,
            kv_heads=self.kv_heads // tp,
            intermediate=self.intermediate // tp,
            vocab=self.vocab // tp,
            draft_vocab=self.draft_vocab // tp,
            tp=tp,
        )


LLAMA3_8B = Model("llama3-8b", 32, 4096, 32, 8, 14336, 128256, 32000)
LLAMA3_70B = Model("llama3-70b", 80, 8192, 64, 8, 28672, 128256, 32000)
QWEN3_8B = Model("qwen3-8b", 36, 4096, 32, 8, 12288, 151936, 32000, qk_norm=True)

PROFILED = (LLAMA3_8B, QWEN3_8B, LLAMA3_70B.shard(4), LLAMA3_70B.shard(8))


def model(name: str) -> Model:
    """The profiled model of that name; raises ValueError."""
    return lookup("model", name, {m.name: m for m in PROFILED})
