"""Has the traffic shifted? A detector over finished requests, in order, with or without labels.

Two signs. *Acceptance*: ADWIN (Bifet and Gavalda 2007) over the acceptance of all traffic; only a drop is a
shift, for nobody needs to be told that the drafter got better. *Mix*: the total variation between a fast and
a slow average of the domain mix; it needs labels and often shows before the acceptance has moved.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from harness.contract import UNKNOWN
from harness.errors import InputError, MissingPart

ACCEPTANCE = "acceptance"
MIX = "mix"


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """How sensitive the detector is. InputError where a value is out of range."""

    delta: float = 0.002
    """ADWIN's significance: smaller means fewer false alarms and later true ones."""
    mix_threshold: float = 0.35
    """Total variation (0..1) between the two averages of the mix that counts as a shift."""
    fast: int = 32
    """Labelled requests that the fast average of the mix remembers."""
    slow: int = 512
    """The same of the slow one."""
    cooldown: int = 128
    """Requests after an alarm without another: one shift shows in both signs, and not at once."""

    def __post_init__(self) -> None:
        for name in ("delta", "mix_threshold"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise InputError(f"drift.{name} is {getattr(self, name)}; it must lie in (0, 1)")
        if not 1 <= self.fast < self.slow:
            raise InputError(f"drift.fast is {self.fast}, slow {self.slow}; needs 1 <= fast < slow")
        if self.cooldown < 0:
            raise InputError(f"drift.cooldown is {self.cooldown}; it must not be negative")


class DriftDetector:
    """Feed it every finished request. MissingPart without river."""

    def __init__(self, settings: DriftSettings | None = None) -> None:
        self.settings = settings or DriftSettings()
        self._adwin = _adwin(self.settings.delta)
        self._fast = _Mix(self.settings.fast)
        self._slow = _Mix(self.settings.slow)
        self._quiet = 0
        self.last_cause = ""
        """Of the latest alarm: `acceptance`, `mix`, or empty before the first."""

    def update(self, trace_acceptance: float | None, domain: str = UNKNOWN) -> bool:
        """Whether this request makes it clear that traffic shifted for the worse, or to another mix.

        `trace_acceptance` in 0..1: share of the request's steps whose first draft was accepted, or of its
        drafts; None where nothing was drafted, and the label alone speaks. Both signs are read during a
        cooldown too, and what they say then belongs to the last alarm.
        """
        if trace_acceptance is not None and not 0.0 <= trace_acceptance <= 1.0:
            raise InputError(f"acceptance is {trace_acceptance}; it must lie in 0..1")
        dropped, moved = self._dropped(trace_acceptance), self._moved(domain)
        if self._quiet > 0:
            self._quiet -= 1
            # The slow average catches up, or the rest of this shift would raise the next alarm.
            self._slow.adopt(self._fast)
            return False
        if dropped or moved:
            self.last_cause = ACCEPTANCE if dropped else MIX
            self._quiet = self.settings.cooldown
            self._slow.adopt(self._fast)
        return dropped or moved

    def _dropped(self, value: float | None) -> bool:
        if value is None:
            return False
        before = float(self._adwin.estimation)
        self._adwin.update(value)
        return bool(self._adwin.drift_detected) and float(self._adwin.estimation) < before

    def _moved(self, domain: str) -> bool:
        if domain == UNKNOWN:
            return False  # no label is no evidence, not a domain
        self._fast.update(domain)
        self._slow.update(domain)
        # Before that the slow average has seen hardly more than the fast one.
        ready = self._slow.seen >= 4 * self.settings.fast
        return ready and self._fast.distance(self._slow) > self.settings.mix_threshold


class _Mix:
    """Exponentially forgetting shares of the domains, unbiased from the first request on."""

    def __init__(self, memory: int) -> None:
        self._keep = 1.0 - 1.0 / memory
        self._weights: dict[str, float] = {}
        self.seen = 0

    def update(self, domain: str) -> None:
        # What has faded is forgotten, so that made-up labels do not pile up.
        self._weights = {d: w * self._keep for d, w in self._weights.items() if w > 1e-6}
        self._weights[domain] = self._weights.get(domain, 0.0) + 1.0
        self.seen += 1

    def adopt(self, other: _Mix) -> None:
        """Continue from the other's shares, at full weight of one's own memory."""
        self._weights = {d: share / (1.0 - self._keep) for d, share in other.shares().items()}

    def shares(self) -> dict[str, float]:
        total = sum(self._weights.values())
        return {d: w / total for d, w in self._weights.items()}

    def distance(self, other: _Mix) -> float:
        """Total variation, 0..1."""
        mine, theirs = Counter(self.shares()), Counter(other.shares())
        return 0.5 * sum(abs(mine[d] - theirs[d]) for d in {*mine, *theirs})


def _adwin(delta: float) -> Any:
    try:
        from river.drift import ADWIN
    except ImportError as error:
        raise MissingPart(
            "the drift detector needs river; install it with: python3 -m pip install 'specdrift[learn]'"
        ) from error
    return ADWIN(delta=delta, clock=1)
