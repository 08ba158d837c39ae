"""The pruned draft vocabulary: which of the target's tokens a drafter can propose (EAGLE-3's d2t and t2d)."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from harness.errors import InputError


class DraftVocabulary(nn.Module):
    """A sorted subset of the target's tokens. Buffers, so that it travels with the weights."""

    ids: torch.Tensor
    """int64[n]: target token of each draft token, ascending."""
    index: torch.Tensor
    """int64[target vocabulary]: draft token of each target token, -1 where it has none."""

    def __init__(self, ids: torch.Tensor, target_size: int) -> None:
        super().__init__()
        ids = torch.as_tensor(ids, dtype=torch.int64)
        if ids.numel() == 0 or ids[0] < 0 or ids[-1] >= target_size or bool((ids.diff() <= 0).any()):
            raise InputError(
                f"a draft vocabulary of {ids.numel()} tokens over {target_size} must list ascending, distinct "
                f"token ids within 0..{target_size - 1}"
            )
        index = torch.full((target_size,), -1, dtype=torch.int64, device=ids.device)
        index[ids] = torch.arange(len(ids), device=ids.device)
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("index", index, persistent=False)

    @classmethod
    def full(cls, target_size: int) -> DraftVocabulary:
        """All of the target's tokens."""
        return cls(torch.arange(target_size), target_size)

    @classmethod
    def most_frequent(cls, counts: torch.Tensor, size: int) -> DraftVocabulary:
        """The `size` most frequent tokens by counts[target vocabulary]; ties go to the lower id."""
        order = torch.sort(counts, descending=True, stable=True).indices[:size]
        return cls(order.sort().values, len(counts))

    def become(self, other: DraftVocabulary) -> None:
        """Take over another map, in place and on the device of this one."""
        self.ids, self.index = (new.to(self.ids.device, copy=True) for new in (other.ids, other.index))

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def target_size(self) -> int:
        return int(self.index.shape[0])

    @property
    def is_full(self) -> bool:
        return len(self) == self.target_size

    def to_target(self, draft: torch.Tensor) -> torch.Tensor:
        """Target token ids of draft token ids, any shape."""
        return self.ids[draft]

    def coverage(self, counts: torch.Tensor) -> float:
        """Share of the tokens counted (counts[target vocabulary]) that can be drafted; 1 of none."""
        total = float(counts.sum())
        return float(counts[self.ids].sum()) / total if total > 0 else 1.0

    @property
    def d2t(self) -> torch.Tensor:
        """EAGLE-3's form: int64[n], target id minus draft id."""
        return self.ids - torch.arange(len(self), device=self.ids.device)

    @property
    def t2d(self) -> torch.Tensor:
        """EAGLE-3's form: bool[target vocabulary], whether a token can be drafted."""
        return self.index >= 0

    @classmethod
    def from_d2t(cls, d2t: torch.Tensor, target_size: int) -> DraftVocabulary:
        return cls(d2t.long() + torch.arange(len(d2t), device=d2t.device), target_size)

    def fingerprint(self) -> str:
        """16 hex digits of the map: weights made under another map must not be served under this one."""
        return hashlib.sha256(self.ids.cpu().numpy().tobytes()).hexdigest()[:16]
