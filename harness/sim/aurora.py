"""Aurora's published curves (arXiv 2602.06932) as data, and their replay through a learning curve.

Read off the plots in the repository togethercomputer/aurora (commit 8358be4), so approximate: about
0.05 acceptance length and a few hundred requests. Acceptance lengths include the bonus token; the
plots do not state K, its examples unroll 5 to 7 draft steps, and we read them at K = 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.sim.learning import LearningCurve

PUBLISH_EVERY = 400
"""Requests between publications in the released examples: 50 training steps of 8 samples."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One domain of the ordered stream, with its acceptance lengths."""

    domain: str
    requests: int
    static: float
    online: tuple[float, float]
    """Start and end of the drafter trained online from the pretrained one."""
    scratch: tuple[float, float]
    """Start and end of the drafter trained online from nothing."""


ORDERED = (
    Segment("aurora-1", 7_500, 3.05, (3.03, 3.80), (1.00, 2.90)),
    Segment("aurora-2", 7_000, 2.62, (2.55, 3.40), (1.50, 2.70)),
    Segment("aurora-3", 10_000, 2.61, (2.47, 2.85), (1.46, 2.20)),
    Segment("aurora-4", 9_000, 2.48, (2.56, 2.92), (2.00, 2.65)),
)
"""The domain-shift plot: segments one after another."""

MIXED_STATIC = 2.63
MIXED_ONLINE = ((0, 2.63), (33_000, 3.05))
MIXED_SCRATCH = ((0, 1.0), (6_000, 2.0), (10_000, 2.2), (20_000, 2.45), (33_000, 2.62))
"""The stationary plot: (requests trained on, acceptance length) on the shuffled stream."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the serving drafter did in one segment, in `Segment`'s terms."""

    start: float
    end: float
    below_static: int
    """Requests from the shift until a publication brings it to the static drafter's level."""


def replay_ordered(curve: LearningCurve, publish_every: int = PUBLISH_EVERY) -> list[Replayed]:
    """Serve the ordered stream, publishing every `publish_every` requests. Trains `curve`.

    Its profiles must be the segments' domains in order.
    """
    found: list[Replayed] = []
    served, serving = 0, curve.candidate()
    for index, segment in enumerate(ORDERED):
        begin, lengths = served, []
        while served < begin + segment.requests:
            lengths.append((served - begin, float(curve.reference_length(serving)[index])))
            step = min(publish_every - served % publish_every, begin + segment.requests - served)
            counts = np.zeros(len(ORDERED))
            counts[index] = step
            curve.consume(counts)
            served += step
            if served % publish_every == 0:
                serving = curve.candidate()
        static = float(curve.reference_length(curve.static())[index])
        below = next((at for at, length in lengths if length >= static), segment.requests)
        found.append(Replayed(lengths[0][1], lengths[-1][1], below))
    return found


def replay_mixed(curve: LearningCurve, requests: tuple[int, ...]) -> list[float]:
    """Acceptance length on the shuffled stream after each number of requests (rising). Trains `curve`.

    Pooled over verify steps: the harmonic mean of the domains', by their share of requests.
    """
    share = np.array([s.requests for s in ORDERED], dtype=np.float64)
    share /= share.sum()
    found, done = [], 0
    for at in requests:
        curve.consume(share * (at - done))
        done = at
        found.append(float(1.0 / (share / curve.reference_length(curve.candidate())).sum()))
    return found
