"""Batch-size ranges, and the K schedule written over them."""

from __future__ import annotations

from collections.abc import Sequence

from harness.contract import KSchedule

Ranges = tuple[tuple[int, int], ...]


def batch_ranges(max_batch: int) -> Ranges:
    """Inclusive ranges ending at 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: two to an octave, up to `max_batch`."""
    ends = [1]
    power = 2
    while power <= max_batch:
        ends += [e for e in (power, power * 3 // 2) if e <= max_batch]
        power *= 2
    if ends[-1] != max_batch:
        ends.append(max_batch)
    return tuple((lo + 1, hi) for lo, hi in zip([0, *ends], ends, strict=False))


def middle(batch_range: tuple[int, int]) -> int:
    """The batch size that stands for a range."""
    return (batch_range[0] + batch_range[1] + 1) // 2


def to_schedule(ranges: Ranges, ks: Sequence[int]) -> KSchedule:
    """One K per range -> the shortest equal schedule (neighbours with the same K are joined)."""
    merged: list[tuple[int, int, int]] = []
    for (lo, hi), k in zip(ranges, ks, strict=True):
        if merged and merged[-1][2] == k:
            merged[-1] = (merged[-1][0], hi, k)
        else:
            merged.append((lo, hi, k))
    return tuple(merged)
