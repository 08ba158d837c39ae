"""Speedup and acceptance length as requests went by, on runs whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from harness.compare.by_requests import by_requests
from harness.errors import UnknownName
from harness.runlog import CellWriter, RunWriter, read_run

N = 250


def write(path, arms, failed=()):
    """`arms`: (seconds in the engine, accepted drafts of 10 verify steps) of every request; 20 tokens each."""
    info = {"mode": "sim", "scenario": "t", "seeds": [0, 1], "arms": {a: {} for a in arms}}
    with RunWriter(path, info) as writer:
        for seed in (0, 1):
            for arm, (seconds, accepted) in arms.items():
                with CellWriter(writer.parts, arm, seed) as cell:
                    cell.requests(_requests(seconds, accepted, failed if arm != "none" else ()))
        writer.merge()
    return read_run(path)


def _requests(seconds, accepted, failed):
    arrival, zeros = np.arange(N, dtype=float), np.zeros(N, dtype=int)
    status = np.full(N, "finished", dtype=object)
    status[list(failed)] = "failed"
    steps = zeros + 10 * (np.max(accepted) > 0)
    return {
        "request_id": np.arange(N), "domain": np.full(N, "d"), "tenant": np.full(N, "t"),
        "arrival": arrival, "scheduled": arrival + 0.5, "first_token": arrival + 1.0,
        "finish": arrival + 0.5 + seconds, "prompt_tokens": zeros + 1, "output_tokens": zeros + 20,
        "cached_tokens": zeros, "preemptions": zeros, "verify_steps": steps, "draft_tokens": zeros,
        "accepted_tokens": accepted, "slo_met": zeros == 0, "status": status,
    }  # fmt: skip


FASTER = np.where(np.arange(N) < 100, 4.0, 2.0)
ACCEPTED = np.where(np.arange(N) < 100, 5, 15)


def test_blocks(tmp_path):
    run = write(tmp_path / "r", {"none": (np.full(N, 4.0), np.zeros(N, int)), "bandit": (FASTER, ACCEPTED)})
    found = by_requests(run, 100)
    assert (found["over"], found["begins"], found["seeds"]) == ("none", [0, 100, 200], [0, 1])
    assert found["arms"]["bandit"] == {"speedup": [1.0, 2.0, 2.0], "length": [1.5, 2.5, 2.5]}
    assert found["arms"]["none"] == {"speedup": [1.0] * 3, "length": [None] * 3}
    assert by_requests(run, 100, "bandit")["arms"]["none"]["speedup"] == [1.0, 0.5, 0.5]


def test_a_request_that_one_arm_failed_counts_for_neither(tmp_path):
    slow = np.where(np.arange(N) == 7, 1000.0, FASTER)
    arms = {"none": (np.full(N, 4.0), np.zeros(N, int)), "bandit": (slow, ACCEPTED)}
    assert by_requests(write(tmp_path / "r", arms, failed=(7,)), 100)["arms"]["bandit"]["speedup"][0] == 1.0
    gone = by_requests(write(tmp_path / "s", arms, failed=range(100, 200)), 100)
    assert gone["arms"]["bandit"]["speedup"][1:] == [None, 2.0], "nothing to compare there"


def test_an_arm_that_is_not_there(tmp_path):
    run = write(tmp_path / "r", {"static:3": (FASTER, ACCEPTED), "bandit": (FASTER, ACCEPTED)})
    assert by_requests(run, 50)["over"] == "static:3"
    with pytest.raises(UnknownName, match="bandid"):
        by_requests(run, 50, "bandid")
