"""Offered and accepted counts of a tick, by traffic group, and the mix of groups.

A group is the best label there is: the domain; for requests without one, the tenant; else "unknown".
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.contract import UNKNOWN, PositionCounts

MAX_GROUPS = 16
"""Groups kept apart; any further labels share the last row, so that memory and time stay bounded."""


class Traffic:
    """Turns `Observation.positions` into arrays, and follows the mix with two memories."""

    def __init__(self, max_k: int, fast: float, slow: float) -> None:
        self.offered = np.zeros((MAX_GROUPS, max_k))
        """float64[groups, max_k], max_k >= 1: offered at each position since the last tick."""
        self.accepted = np.zeros((MAX_GROUPS, max_k))
        self.mix = np.zeros(MAX_GROUPS)
        """float64[groups], sums to 1: share of the verify steps of the last few ticks."""
        self.slow_mix = np.zeros(MAX_GROUPS)
        """The same over some tens of ticks: the traffic a published drafter will meet."""
        self.mix[0] = self.slow_mix[0] = 1.0
        self._fast, self._slow = fast, slow
        self._rows: dict[tuple[str, str], int] = {}
        self._groups: list[str] = []
        self._domains: list[str] = []
        self._ticks = 0
        self._zeros = (0,) * max_k

    def read(self, positions: Mapping[tuple[str, str], PositionCounts]) -> int:
        """Fill `offered` and `accepted`; returns the verify steps seen (drafts offered at position 0)."""
        self.offered[:] = 0.0
        self.accepted[:] = 0.0
        if not positions:
            return 0
        max_k = self.offered.shape[1]
        rows = [self._row(key) for key in positions]
        offered = [(c.offered + self._zeros)[:max_k] for c in positions.values()]
        accepted = [(c.accepted + self._zeros)[:max_k] for c in positions.values()]
        if len(set(rows)) == len(rows):
            self.offered[rows] = offered
            self.accepted[rows] = accepted
        else:
            np.add.at(self.offered, rows, offered)
            np.add.at(self.accepted, rows, accepted)
        steps = float(self.offered[:, 0].sum())
        if steps > 0:
            self._mix_in(self.offered[:, 0] / steps)
        return int(steps)

    @property
    def groups(self) -> tuple[tuple[int, str], ...]:
        """(row, domain) of each group met so far."""
        return tuple(enumerate(self._domains))

    def forget(self) -> None:
        """The mix has changed: begin it anew with the next tick in which anything was drafted."""
        self._ticks = 0

    def domain_mix(self) -> dict[str, float]:
        """The slow mix by domain; empty while no label was seen."""
        mix: dict[str, float] = {}
        if not self._ticks:
            return mix
        for row, domain in enumerate(self._domains):
            mix[domain] = mix.get(domain, 0.0) + float(self.slow_mix[row])
        return mix

    def _row(self, key: tuple[str, str]) -> int:
        row = self._rows.get(key)
        if row is None:
            row = self._new_row(*key)
            if len(self._rows) < 64 * MAX_GROUPS:
                self._rows[key] = row
        return row

    def _new_row(self, domain: str, tenant: str) -> int:
        group = domain if domain != UNKNOWN or tenant == UNKNOWN else f"tenant {tenant}"
        if group in self._groups:
            return self._groups.index(group)
        if len(self._groups) == MAX_GROUPS:
            return MAX_GROUPS - 1
        self._groups.append(group)
        self._domains.append(domain)
        return len(self._groups) - 1

    def _mix_in(self, share: np.ndarray) -> None:
        if not self._ticks:
            self.mix[:] = share
        self.mix += self._fast * (share - self.mix)
        self._ticks += 1
        self.slow_mix += max(self._slow, 1.0 / self._ticks) * (share - self.slow_mix)
