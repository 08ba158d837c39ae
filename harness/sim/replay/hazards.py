"""Hazards by draft position from recorded verify steps, near a request: for what the record does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.errors import InputError

NEAR = 512
"""Verify steps of earlier and of later requests, of the same domain and drafter, that count as near in time."""

PSEUDO = 2.0
"""Pseudo-drafts at each position: add-one smoothing of the whole cell, shrinkage of a group to it."""


def position_counts(k: np.ndarray, accepted: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each verify step offered, and accepted, each position: bool[steps, depth] twice.

    A position behind a rejection was never offered (contract.PositionCounts)."""
    i = np.arange(depth)
    return (k[:, None] > i) & (accepted[:, None] >= i), accepted[:, None] > i


def pooled_hazards(k: np.ndarray, accepted: np.ndarray, depth: int) -> np.ndarray:
    """Add-one smoothed hazards float64[depth]; the last position ever offered stands for all deeper ones.

    InputError when no draft was ever offered."""
    offered, held = (counts.sum(axis=0) for counts in position_counts(k, accepted, depth))
    reached = int(np.count_nonzero(offered))
    if reached == 0:
        raise InputError(
            "the record of this arm has no verify step, so what its drafts would have met is not known"
        )
    hazards: np.ndarray = (held + PSEUDO / 2) / (offered + PSEUDO)
    hazards[reached:] = hazards[reached - 1]
    return hazards


@dataclass(frozen=True)
class _Group:
    """Steps of one (domain, version), in order of their requests' arrival."""

    rank: np.ndarray  # int64[n]: which request by arrival
    offered: np.ndarray  # int64[n + 1, depth], cumulative
    accepted: np.ndarray

    def near(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Counts (offered, accepted), int64[depth] each, around the request of that rank."""
        low = max(0, int(np.searchsorted(self.rank, rank, "left")) - NEAR)
        high = min(len(self.rank), int(np.searchsorted(self.rank, rank, "right")) + NEAR)
        return self.offered[high] - self.offered[low], self.accepted[high] - self.accepted[low]


class Hazards:
    """Of one recorded cell: `domain[n]` and `rank[n]` (by arrival) belong to the request of step n."""

    def __init__(self, steps: Mapping[str, np.ndarray], rank: np.ndarray, domain: np.ndarray, depth: int):
        self._steps = steps
        self._depth = depth
        self._pooled: np.ndarray | None = None
        self._groups: dict[tuple[str, int], _Group] = {}
        order = np.argsort(rank, kind="stable")
        for name in np.unique(domain):
            for version in np.unique(steps["drafter_version"][domain == name]):
                mine = order[(domain == name)[order] & (steps["drafter_version"] == version)[order]]
                self._groups[str(name), int(version)] = self._group(rank, mine)

    def _group(self, rank: np.ndarray, mine: np.ndarray) -> _Group:
        counts = position_counts(self._steps["k"][mine], self._steps["accepted"][mine], self._depth)
        nothing = np.zeros((1, self._depth), np.int64)
        return _Group(rank[mine], *(np.vstack([nothing, np.cumsum(c, axis=0)]) for c in counts))

    def near(self, rank: int, domain: str, version: int) -> np.ndarray:
        """Hazards float64[depth] for that request under that drafter; InputError for a record without steps.

        Steps near in time of the same domain and drafter, shrunk by PSEUDO drafts to the whole cell's.
        """
        if self._pooled is None:
            self._pooled = pooled_hazards(self._steps["k"], self._steps["accepted"], self._depth)
        group = self._groups.get((domain, version))
        if group is None:
            return self._pooled
        offered, accepted = group.near(rank)
        found: np.ndarray = (accepted + PSEUDO * self._pooled) / (offered + PSEUDO)
        return found
