"""Exploration is optimistic, nearest first, and bounded in cost."""

from __future__ import annotations

import numpy as np
import pytest

from harness.policy.lengths import lengths
from harness.policy.probing import Prober

KNOWN = np.ones(5, dtype=bool)
SURE = np.ones(5)
SECONDS = np.array([1.0, 1.3, 1.6, 1.9, 2.2])


def prober(seen: int = 0) -> Prober:
    p = Prober(4, budget=0.01, most=0.1, stale_ticks=8, deep_stale_ticks=32, enough=64)
    offered = np.zeros(4)
    offered[:seen] = 1000.0
    for _ in range(40):
        p.note(offered)
    return p


def test_at_k_zero_the_next_k_is_tried_at_the_budgeted_cost() -> None:
    hazards = np.full(4, 0.1)
    probe = prober().propose(0, hazards, SECONDS, KNOWN, SURE)
    assert probe is not None
    assert probe.k == 1
    loss = 1.0 - lengths(hazards)[1] / SECONDS[1]
    assert probe.probability * loss == pytest.approx(0.01)


def test_nothing_is_tried_where_even_full_acceptance_would_lose() -> None:
    assert prober().propose(0, np.full(4, 0.1), np.array([1.0, 2.1, 3.2, 4.3, 5.4]), KNOWN, SURE) is None


def test_nothing_is_tried_when_everything_is_known() -> None:
    assert prober(seen=4).propose(4, np.full(4, 0.9), SECONDS, KNOWN, SURE) is None


def test_a_censored_deeper_position_is_tried() -> None:
    probe = prober(seen=2).propose(2, np.array([0.8, 0.75, 0.6, 0.6]), SECONDS, KNOWN, SURE)
    assert probe is not None
    assert probe.k == 3


def test_an_unmeasured_cost_is_tried_only_if_it_could_win() -> None:
    known = np.array([False, True, True, True, True])
    hazards = np.array([0.45, 0.2, 0.1, 0.1])
    seconds = np.array([1.0, 1.3, 1.7, 2.1, 2.5])
    assert (lengths(hazards) / seconds).argmax() == 1
    probe = prober(seen=4).propose(1, hazards, seconds, known, np.where(known, 1.0, 0.7))
    assert probe is not None
    assert probe.k == 0
    assert prober(seen=4).propose(1, hazards, seconds, known, np.where(known, 1.0, 0.95)) is None


def test_a_cheap_probe_is_still_rare() -> None:
    probe = prober().propose(0, np.full(4, 0.3), np.array([1.0, 1.3, 1.5, 1.7, 1.9]), KNOWN, SURE)
    assert probe is not None
    assert probe.probability <= 0.1
