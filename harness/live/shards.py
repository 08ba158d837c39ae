"""The part of a weight that one worker serves with, where a model is spread over several (tensor parallelism)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def part_of(module: Any, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """What this worker's `module` holds of the checkpoint's `pieces` (of a fused layer: its layers in their order).

    Cut as vLLM's own loaders cut them: column-parallel layers by their outputs, row-parallel ones by their inputs,
    tables of tokens by token, with zeros behind the last; keys and values of fewer heads than workers are held more
    than once. Every other module, and every module of a model in one process, holds all. What cannot be cut evenly
    comes back in a shape that the module does not have.
    """
    ranks, rank = int(getattr(module, "tp_size", 1)), int(getattr(module, "tp_rank", 0))
    if ranks > 1 and hasattr(module, "shard_indices"):
        return _tokens(module, pieces[0])
    if ranks > 1 and _is_cut(module, "input_size"):
        return _cut(pieces[0], 1, rank, ranks)
    if ranks > 1 and _is_cut(module, "output_size"):
        copies = [1, *[int(getattr(module, "num_kv_head_replicas", 1))] * (len(pieces) - 1)]
        pieces = [
            _cut(piece, 0, rank // n, max(1, ranks // n)) for piece, n in zip(pieces, copies, strict=True)
        ]
    return torch.cat(list(pieces)) if len(pieces) > 1 else pieces[0]


def _is_cut(module: Any, size: str) -> bool:
    part = getattr(module, f"{size}_per_partition", None)
    return part is not None and part < getattr(module, size)


def _cut(piece: torch.Tensor, dim: int, at: int, parts: int) -> torch.Tensor:
    size = piece.shape[dim] // parts
    return piece.narrow(dim, at * size, size)


def _tokens(module: Any, piece: torch.Tensor) -> torch.Tensor:
    if piece.shape[0] != module.org_vocab_size:
        return piece
    mine = module.shard_indices
    held = piece[mine.org_vocab_start_index : mine.org_vocab_end_index]
    return torch.cat([held, held.new_zeros(module.num_embeddings_per_partition - len(held), piece.shape[1])])
