"""Serving modules as vLLM has them, in plain torch: fused layers, a padded vocabulary, packed layers of a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

HIDDEN, VOCAB, PADDED = 8, 20, 24


class Multiply:
    """vLLM's `quant_method` of a layer that is not quantised."""

    def apply(self, layer: nn.Module, x: torch.Tensor, bias: Any = None) -> torch.Tensor:
        return nn.functional.linear(x, layer.weight, bias)


class Stale(Multiply):
    """Answers with a copy that it made when the layer was loaded, as a packed layer does after a plain load."""

    def __init__(self, layer: nn.Module) -> None:
        self._kept = layer.weight.data.clone()

    def apply(self, layer: nn.Module, x: torch.Tensor, bias: Any = None) -> torch.Tensor:
        return nn.functional.linear(x, self._kept, bias)


class Linear(nn.Module):
    def __init__(self, out: int, inner: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, inner), requires_grad=False)
        self.quant_method: Multiply = Multiply()


class VocabParallelEmbedding(Linear):
    """vLLM's name: it looks up, and is compared weight by weight."""

    def __init__(self) -> None:
        super().__init__(PADDED, HIDDEN)
        self.num_embeddings_padded = PADDED
        self.weight.data[VOCAB:] = 0.0


class ParallelLMHead(VocabParallelEmbedding):
    pass


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(HIDDEN) + 0.5, requires_grad=False)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj = Linear(HIDDEN + 4 + 4, HIDDEN)
        self.o_proj = Linear(HIDDEN, HIDDEN)
        self.gate_up_proj = Linear(2 * 12, HIDDEN)
        self.down_proj = Linear(HIDDEN, 12)
        self.norm = Norm()


class Model(nn.Module):
    """A target of one layer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed_tokens = VocabParallelEmbedding()
        self.layer = Layer()
        self.lm_head = ParallelLMHead()


def checkpoint_of(model: Model) -> dict[str, torch.Tensor]:
    """The model's weights as a checkpoint has them: parts apart, no padding."""
    state = {name: p.data.clone() for name, p in model.named_parameters()}
    q, k, v = state.pop("layer.qkv_proj.weight").split([HIDDEN, 4, 4])
    gate, up = state.pop("layer.gate_up_proj.weight").split([12, 12])
    state |= {"layer.q_proj.weight": q, "layer.k_proj.weight": k, "layer.v_proj.weight": v}
    state |= {"layer.gate_proj.weight": gate, "layer.up_proj.weight": up}
    for name in ("embed_tokens.weight", "lm_head.weight"):
        state[name] = state[name][:VOCAB]
    return {name: tensor.clone() for name, tensor in state.items()}


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.data.clone() for name, p in model.named_parameters()}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
