"""The held-out slice: recent traffic that is never trained on, to judge drafters by."""

from __future__ import annotations

import heapq
from collections import deque

import numpy as np

from harness.errors import InputError
from harness.speculator.buffer import owned
from harness.speculator.traces import Trace

Group = tuple[str, str]
"""Domain and tenant."""

FEW, FEW_FACTOR = 6, 2.5
"""Below that many held texts a group is drawn with so many times the share."""


class HeldOut:
    """The newest traces of each (domain, tenant), at most `per_group` of one and `capacity` in all."""

    def __init__(self, share: float, capacity: int, rng: np.random.Generator, per_group: int) -> None:
        if not 0.0 <= share <= 1.0:
            raise InputError(f"held-out share is {share}; it must lie in 0..1")
        if capacity < 1 or per_group < 1:
            raise InputError(f"held-out capacity {capacity} and per_group {per_group} must be at least 1")
        self.share = share
        self.capacity = capacity
        self.per_group = per_group
        self._rng = rng
        self._groups: dict[Group, deque[tuple[int, Trace]]] = {}
        self._added = 0
        self._verifier = 0

    def __len__(self) -> int:
        return sum(len(held) for held in self._groups.values())

    @property
    def nbytes(self) -> int:
        return sum(trace.nbytes for held in self._groups.values() for _, trace in held)

    def takes(self, trace: Trace) -> bool:
        """Whether this finished trace is to be held out. Ask once per trace: each call draws anew.

        A draw, whatever the trace: a choice by what is in it would make the slice unlike the traffic. Only a
        group of which next to nothing is held yet is drawn more often: no candidate can be judged for it.
        """
        held = self._groups.get((trace.domain, trace.tenant), ())
        few = len(held) < FEW and trace.verifier_version >= self._verifier
        return float(self._rng.random()) < (min(1.0, FEW_FACTOR * self.share) if few else self.share)

    def add(self, trace: Trace) -> list[Trace]:
        """Hold `trace`; the oldest of its group, or of the largest group, makes room and is returned: it judges
        nothing any more, so it may be trained on."""
        self.set_verifier(trace.verifier_version)
        if trace.verifier_version < self._verifier:
            return []
        self._added += 1
        group = self._groups.setdefault((trace.domain, trace.tenant), deque())
        group.append((self._added, owned(trace)))
        gone = [group.popleft()[1]] if len(group) > self.per_group else []
        if len(self) > self.capacity:
            gone.append(self._evict())
        return gone

    def set_verifier(self, version: int) -> None:
        """The target changed: what an older one said is void and goes at once. Versions only grow."""
        if version <= self._verifier:
            return
        self._verifier = version
        kept = {
            name: deque(held for held in group if held[1].verifier_version >= version)
            for name, group in self._groups.items()
        }
        self._groups = {name: group for name, group in kept.items() if group}

    def groups(self) -> dict[Group, list[Trace]]:
        """Traces per (domain, tenant), oldest first."""
        return {name: [trace for _, trace in group] for name, group in self._groups.items()}

    def recent(self, n: int) -> list[Trace]:
        """The newest n of all groups, oldest first."""
        if n < 1:
            raise InputError(f"recent({n}): needs n >= 1")
        every = (held for group in self._groups.values() for held in group)
        newest = heapq.nlargest(n, every, key=lambda held: held[0])
        return [trace for _, trace in reversed(newest)]

    def _evict(self) -> Trace:
        """Take out the oldest of the largest group; of groups equally large, that whose oldest is oldest."""
        name = max(self._groups, key=lambda g: (len(self._groups[g]), -self._groups[g][0][0]))
        _, trace = self._groups[name].popleft()
        if not self._groups[name]:
            del self._groups[name]
        return trace
