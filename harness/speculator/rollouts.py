"""Greedy texts of a target with their hidden states: what any drafter will have to predict.

Made once per target and kept in one safetensors file, since neither text nor states depend on the drafter.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.errors import InputError
from harness.speculator.target import Target
from harness.speculator.traces import Trace

_BATCH = 128


@dataclass(frozen=True)
class Rollouts:
    """Texts one behind another; text i is tokens[offsets[i]:offsets[i + 1]]."""

    tokens: torch.Tensor
    """int64[all]."""
    fused: torch.Tensor
    """float16[all, 3H]."""
    last: torch.Tensor
    """float16[all, H]."""
    offsets: torch.Tensor
    """int64[n + 1]."""
    prompt_tokens: torch.Tensor
    """int64[n]."""

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def text(self, i: int) -> torch.Tensor:
        """int64[T]: prompt and output of text i."""
        return self.tokens[int(self.offsets[i]) : int(self.offsets[i + 1])]

    def output_tokens(self, i: int) -> int:
        return int(self.offsets[i + 1] - self.offsets[i] - self.prompt_tokens[i])

    def states(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(fused, last) of text i."""
        part = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return self.fused[part], self.last[part]

    def trace(self, i: int, k: int = 1) -> Trace:
        """Text i as a trace without verify steps: for learning from text alone."""
        fused, last = self.states(i)
        none = torch.zeros(0, dtype=torch.int64)
        return Trace(
            tokens=self.text(i), prompt_tokens=int(self.prompt_tokens[i]), fused=fused, last=last,
            at=none, drafted=none.view(0, k), accepted=none, logq=torch.zeros(0, k),
            branch=none, branch_last=last.new_zeros(0, k, last.shape[1]), request_id=i,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """One file, there whole or not at all."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        save_file({name: getattr(self, name) for name in self.__dataclass_fields__}, str(beside))
        os.replace(beside, path)

    @classmethod
    def load(cls, path: Path) -> Rollouts:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return cls(**load_file(str(path)))
        except (SafetensorError, TypeError, OSError) as error:
            raise InputError(f"{path} holds no rollouts: {error}; delete it to have it made again") from error


def roll_out(target: Target, prompts: Sequence[Sequence[int]], most: int, eos: int) -> Rollouts:
    """Greedy texts of up to `most` output tokens and their states."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
    texts: list[list[int]] = [[] for _ in prompts]
    states: list[tuple[torch.Tensor, torch.Tensor]] = [(torch.empty(0), torch.empty(0))] * len(prompts)
    for begin in range(0, len(order), _BATCH):
        part = order[begin : begin + _BATCH]
        made = target.generate([prompts[i] for i in part], most, eos)
        for i, text, pair in zip(part, made, target.states(made), strict=True):
            texts[i], states[i] = text, (pair[0].half(), pair[1].half())
    lengths = torch.tensor([0, *map(len, texts)])
    return Rollouts(
        tokens=torch.tensor([t for text in texts for t in text]),
        fused=torch.cat([f for f, _ in states]),
        last=torch.cat([x for _, x in states]),
        offsets=lengths.cumsum(0),
        prompt_tokens=torch.tensor([len(p) for p in prompts]),
    )
