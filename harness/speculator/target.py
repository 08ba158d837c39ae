"""The target as the learner needs it: greedy text, hidden states, and what it thinks of rejected drafts.

A Hugging Face causal language model, frozen. A live server computes all of this anyway in its verify passes
(`Trace` is what its tap writes); here the same figures come from a model in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.errors import InputError, MissingPart


def quiet() -> None:
    """No progress bars of transformers: standard error is ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def aux_layers(layers: int) -> tuple[int, int, int]:
    """Indices whose input states the drafter is fed: vLLM's default for EAGLE-3."""
    return 2, layers // 2, layers - 3


@dataclass(frozen=True, slots=True)
class Ends:
    """A target's first and last layer, all that a learner needs where a server computes the rest."""

    config: Any
    """Its Hugging Face configuration."""
    head: torch.Tensor
    """float32[V, H]: `last @ head.T` are logits."""
    embedding: torch.Tensor
    """float32[V, H]."""

    @classmethod
    def load(cls, folder: Path) -> Ends:
        """From a model folder in Hugging Face format, without the layers between. MissingPart or InputError."""
        from transformers import AutoConfig

        quiet()
        if not (folder / "config.json").is_file():
            raise MissingPart(
                f"{folder} holds no model (no config.json); specdrift make-model tiny makes one"
            )
        config = AutoConfig.from_pretrained(folder)
        embedding = _tensor(folder, "model.embed_tokens.weight")
        tied = getattr(config, "tie_word_embeddings", False)
        head = embedding if tied else _tensor(folder, "lm_head.weight")
        return cls(config, head.float(), embedding.float())


def _tensor(folder: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), "pt") as file:
            if name in file.keys():  # noqa: SIM118
                return file.get_tensor(name)
    raise InputError(f"{folder} holds no weight {name!r}; only Llama-like models can be learned from")


class Target:
    """Reads; never changes its model. Token ids come and go as Python lists of ints."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.config = model.config
        self.layers = aux_layers(self.config.num_hidden_layers)

    @classmethod
    def load(cls, folder: Path) -> Target:
        """From a model folder in Hugging Face format; MissingPart when there is none."""
        from transformers import AutoModelForCausalLM

        quiet()
        if not (folder / "config.json").is_file():
            raise MissingPart(
                f"{folder} holds no model (no config.json); specdrift make-model tiny makes one"
            )
        return cls(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))

    @property
    def head(self) -> torch.Tensor:
        """float32[V, H]: `last @ head.T` are logits."""
        return self.model.get_output_embeddings().weight.detach()

    @property
    def embedding(self) -> torch.Tensor:
        """float32[V, H]."""
        return self.model.get_input_embeddings().weight.detach()

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], most: int, eos: int) -> list[list[int]]:
        """Greedy continuations of up to `most` tokens, prompts included, each cut behind its first `eos`."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        out = self.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=eos,
            eos_token_id=eos,
        )  # fmt: skip
        texts = []
        for prompt, row in zip(prompts, out[:, longest:].tolist(), strict=True):
            texts.append(list(prompt) + (row[: row.index(eos) + 1] if eos in row else row))
        return texts

    @torch.no_grad()
    def states(self, texts: Sequence[Sequence[int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(fused [T, 3H], last [T, H]) of each text, from one right-padded pass."""
        ids = _padded(texts)
        mask = torch.tensor([[1] * len(t) + [0] * (ids.shape[1] - len(t)) for t in texts])
        hidden = self.model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        fused = torch.cat([hidden[i] for i in self.layers], -1)
        return [(fused[i, : len(t)].clone(), hidden[-1][i, : len(t)].clone()) for i, t in enumerate(texts)]

    @torch.no_grad()
    def branches(self, text: Sequence[int], at: Sequence[int], drafted: torch.Tensor) -> torch.Tensor:
        """[R, K, H]: last states after each draft of R branches of one text, drafted int64[R, K], in one pass.

        Branch r stands behind tokens 0..at[r] + 1. A tree mask lets it see those and its own drafts only: the
        states are those of R separate passes.
        """
        n, (branches, k) = len(text), drafted.shape
        if branches != len(at) or (drafted < 0).any():
            raise InputError(f"{branches} branches with {len(at)} places; drafts must be token ids")
        total = n + branches * k
        place = torch.tensor(at)[:, None] + 2 + torch.arange(k)  # [R, K]
        position = torch.cat([torch.arange(n), place.flatten()])
        seen = torch.zeros(total, total, dtype=torch.bool)
        seen[:n, :n] = torch.ones(n, n, dtype=torch.bool).tril()
        own = torch.ones(k, k, dtype=torch.bool).tril()
        for r, p in enumerate(at):
            rows = slice(n + r * k, n + (r + 1) * k)
            seen[rows, : p + 2] = True
            seen[rows, rows] = own
        mask = torch.zeros(total, total).masked_fill(~seen, torch.finfo(torch.float32).min)
        ids = torch.cat([torch.tensor(text), drafted.flatten()])[None]
        out = self.model.model(input_ids=ids, attention_mask=mask[None, None], position_ids=position[None])
        return out.last_hidden_state[0, n:].view(branches, k, self.config.hidden_size)


def _padded(texts: Sequence[Sequence[int]]) -> torch.Tensor:
    longest = max(map(len, texts))
    return torch.tensor([list(t) + [0] * (longest - len(t)) for t in texts])
