"""What a replay knows and what it draws, on small records written by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness.contract import Request
from harness.errors import InputError
from harness.sim.replay.hazards import NEAR, Hazards, pooled_hazards
from harness.sim.replay.outcomes import Outcomes

REQUESTS = [Request(i, float(i), 10, 500, "chat" if i < 200 else "code") for i in range(400)]


def steps(rows: list[tuple[int, int, int, int, int]]) -> pd.DataFrame:
    names = ["request_id", "at", "k", "accepted", "drafter_version"]
    return pd.DataFrame(rows, columns=names).astype(np.int64)


def many(hazard: float, k: int, seed: int = 0, requests=REQUESTS) -> list[tuple[int, int, int, int, int]]:
    """40 steps a request, every position accepted with probability `hazard`."""
    rng = np.random.default_rng(seed)
    rows = []
    for request in requests:
        luck = rng.random((40, k)) < hazard
        hits = np.cumprod(luck, axis=1).sum(axis=1)
        rows += [(request.request_id, 1 + 8 * i, k, int(h), 0) for i, h in enumerate(hits)]
    return rows


def test_a_recorded_step_tells_every_smaller_k_and_every_k_where_a_draft_failed():
    outcomes = Outcomes(REQUESTS, steps([(0, 1, 4, 2, 0), (0, 4, 4, 4, 0)]), 7, seed=1)
    assert [outcomes.accepted(0, 1, k, 0) for k in range(1, 8)] == [1, 2, 2, 2, 2, 2, 2]
    assert [outcomes.accepted(0, 4, k, 0) for k in range(1, 5)] == [1, 2, 3, 4]
    assert (outcomes.exact, outcomes.censored, outcomes.absent) == (11, 0, 0)


def test_draws_are_nested_in_k_and_start_where_the_record_stops():
    outcomes = Outcomes(REQUESTS, steps(many(0.7, 3)), 7, seed=1)
    told = set()
    for row in many(0.7, 3)[:2000]:
        request, at, k, accepted, _ = row
        chain = [outcomes.accepted(request, at, want, 0) for want in range(1, 8)]
        assert chain == [min(chain[6], want) for want in range(1, 8)]
        assert chain[k - 1] == accepted
        told.add(chain[6])
    assert told == set(range(8)), "every depth occurs"
    assert outcomes.absent == 0
    assert outcomes.censored > 1000


def test_draws_depend_on_seed_request_and_place_only():
    rows = many(0.6, 2)
    asked = [(r, at) for r in range(50) for at in range(2, 40, 8)]
    first, second, other = (Outcomes(REQUESTS, steps(rows), 5, seed) for seed in (1, 1, 2))
    one = {place: first.accepted(*place, 5, 0) for place in asked}
    two = {place: second.accepted(*place, 5, 0) for place in reversed(asked)}
    assert one == two
    assert one != {place: other.accepted(*place, 5, 0) for place in asked}
    assert first.absent == len(asked)


def test_drawn_steps_have_the_recorded_hazards():
    outcomes = Outcomes(REQUESTS, steps(many(0.6, 4)), 4, seed=3)
    hits = np.array([outcomes.accepted(i % 400, 2 + 8 * (i // 400), 4, 0) for i in range(8000)])
    for depth in range(4):
        reached = hits >= depth
        assert (hits[reached] > depth).mean() == pytest.approx(0.6, abs=0.04)


def test_of_two_steps_at_one_place_the_deeper_counts():
    outcomes = Outcomes(REQUESTS, steps([(0, 1, 4, 3, 0), (0, 1, 1, 1, 0)]), 4, seed=0)
    assert outcomes.accepted(0, 1, 4, 0) == 3


# --- hazards ---


def test_pooled_hazards_are_add_one_smoothed_and_the_last_position_repeats():
    k, accepted = np.array([2, 2, 2, 1]), np.array([0, 1, 2, 1])
    # position 0: 3 of 4 held; position 1: offered to two, held once
    assert pooled_hazards(k, accepted, 4) == pytest.approx([4 / 6, 2 / 4, 2 / 4, 2 / 4])
    with pytest.raises(InputError, match="has no verify step"):
        pooled_hazards(k[:0], accepted[:0], 2)


def test_hazards_are_those_of_the_domain_the_drafter_and_the_time():
    per = 40
    rank = np.repeat(np.arange(400), per)
    domain = np.where(rank < 200, "chat", "code")
    version = (rank >= 300).astype(np.int64)
    level = np.select([rank < 100, rank < 200, rank < 300], [0.2, 0.4, 0.6], 0.9)
    held = np.random.default_rng(0).random(len(rank)) < level
    columns = {"k": np.ones(len(rank), int), "accepted": held.astype(int), "drafter_version": version}
    hazards = Hazards(columns, rank, domain, 1)
    for at, name, serving, expected in (
        (10, "chat", 0, 0.2), (190, "chat", 0, 0.4), (250, "code", 0, 0.6), (350, "code", 1, 0.9),
        (250, "code", 1, 0.9),
    ):  # fmt: skip
        assert hazards.near(at, name, serving)[0] == pytest.approx(expected, abs=0.05)
    pooled = pooled_hazards(columns["k"], columns["accepted"], 1)
    assert hazards.near(50, "chat", 1).tolist() == pooled.tolist(), "an unknown group has the cell's own"
    assert 2 * NEAR / per < 100, "the window is narrower than the halves of a domain"


def test_nothing_recorded_is_no_reason_to_invent(tmp_path):
    outcomes = Outcomes(REQUESTS, steps([]), 3, seed=0)
    with pytest.raises(InputError, match="is not known"):
        outcomes.accepted(0, 1, 2, 0)
