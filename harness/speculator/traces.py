"""What serving leaves behind for the learner: the trace of one request's verify passes.

Indices. Token t of a sequence has hidden states `fused[t]` (what the drafter is fed) and `last[t]` (after
the target's final norm: `last[t] @ lm_head` scores token t + 1). A verify step *at* p means that tokens
0..p+1 are known (p + 1 is the newest, it has no hidden state yet), so its first draft, depth 0, is for
token p + 2 and depth j for token p + 2 + j; the target's verdict on depth j comes from `last[p + 1 + j]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch

from harness.contract import UNKNOWN

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trace:
    """One request as its verify passes saw it. Shapes: T tokens, H hidden, S verify steps, K drafts, R branches.

    Target logits are never stored: they are recomputed from `last` with the frozen head.
    """

    tokens: torch.Tensor
    """int64[T]: prompt and output."""
    prompt_tokens: int
    fused: torch.Tensor
    """[T, 3H]: three of the target's layers, concatenated; [T, 0] for a drafter that is fed none."""
    last: torch.Tensor
    """[T, H]."""
    at: torch.Tensor
    """int64[S]: where each verify step stood (p above)."""
    drafted: torch.Tensor
    """int64[S, K]: token ids, -1 where the step drafted fewer than K."""
    accepted: torch.Tensor
    """int64[S]: drafts accepted."""
    logq: torch.Tensor
    """float32[S, K]: log-probability that the drafter gave each draft when it drafted it."""
    branch: torch.Tensor
    """int64[R]: the steps whose rejected drafts come with the target's states."""
    branch_last: torch.Tensor
    """[R, K, H]: entry i is the target's state after drafts 0..i; it scores what follows draft i. These are
    counterfactual data: contexts that the drafter proposed and the text never took."""
    request_id: int = 0
    domain: str = UNKNOWN
    tenant: str = UNKNOWN
    drafter_version: int = 0
    verifier_version: int = 0

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in self._tensors().values())

    @property
    def acceptance_length(self) -> float:
        """Tokens per verify step, bonus token included; 1 when nothing was drafted."""
        return 1.0 + float(self.accepted.float().mean()) if len(self.accepted) else 1.0

    def stored_as(self, dtype: torch.dtype) -> Trace:
        """The same trace with hidden states in `dtype` (bfloat16, float8_e4m3fn, float32)."""
        return replace(
            self,
            fused=self.fused.to(dtype),
            last=self.last.to(dtype),
            branch_last=self.branch_last.to(dtype),
        )

    def _tensors(self) -> dict[str, torch.Tensor]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly over them."""
    if len(items) <= most:
        return list(items)
    return [items[int((i + 0.5) * len(items) / most)] for i in range(most)]
