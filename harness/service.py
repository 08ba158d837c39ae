"""Which drafter serves, and which ones can serve again."""

from __future__ import annotations

from typing import Any

from harness.contract import STATIC, TRAINED, Swap

KEPT_VERSIONS = 8
"""Published drafters that a rollback can still reach."""


class Service:
    """Which drafter serves. Version 0 is the drafter of the start, which stays at hand as the static one."""

    def __init__(self, static: Any) -> None:
        self.static = static
        self.published: dict[int, Any] = {}
        self.newest = 0
        self.version = 0
        self.since = 0.0
        self.last_swap: Swap | None = None
        self.swapping = False

    @property
    def name(self) -> str:
        return TRAINED if self.version else STATIC

    @property
    def weights(self) -> Any:
        return self.published[self.version] if self.version else self.static

    def add(self, weights: Any) -> None:
        """Keep freshly published weights, and the few versions before them for a rollback."""
        self.newest += 1
        self.published[self.newest] = weights
        for version in [v for v in self.published if v <= self.newest - KEPT_VERSIONS and v != self.version]:
            del self.published[version]

    def meant_by(self, drafter: str) -> int:
        """The version that a plan's `drafter` means now; one no longer kept means the static one."""
        if drafter == TRAINED:
            return self.newest
        version = int(drafter.partition(":")[2] or 0)
        return version if version in self.published else 0
