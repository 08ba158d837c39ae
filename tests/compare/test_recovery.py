"""Recovery figures on runs whose curves are known."""

from __future__ import annotations

import numpy as np
import pytest

from harness.compare.recovery import SHARE, WINDOW, recovery
from harness.contract import Event
from harness.errors import InputError, UnknownName
from harness.runlog import RunWriter, read_run

N = 600


def write(path, arms, shift=300, swaps=(), kind="shift", steps=1000):
    """One seed each; `arms` maps a name to the acceptance length of every request, one step each 10 tokens."""
    info = {"mode": "sim", "scenario": "t", "seeds": [0, 1], "arms": {a: {} for a in arms}}
    with RunWriter(path, info) as writer:
        for seed in (0, 1):
            for arm, lengths in arms.items():
                _cell(writer.parts, arm, seed, np.asarray(lengths), (shift, kind), arm in swaps, steps)
        writer.merge()
    return read_run(path)


def _cell(parts, arm, seed, lengths, shift, swaps, verify_steps):
    from harness.runlog import CellWriter

    with CellWriter(parts, arm, seed) as cell:
        start = np.arange(N, dtype=float)
        zeros = np.zeros(N, dtype=int)
        cell.steps(
            {
                "start": start, "seconds": 10.0 / lengths, "batch": zeros + 1, "k": zeros + 4,
                "prefill_tokens": zeros, "output_tokens": zeros + 100, "offered": zeros, "accepted": zeros,
                "running": zeros, "waiting": zeros, "kv_blocks": zeros, "drafter_version": zeros,
                "verifier_version": zeros,
            }
        )  # fmt: skip
        cell.requests(
            {
                "request_id": np.arange(N), "domain": np.full(N, "d"), "tenant": np.full(N, "t"),
                "arrival": start, "scheduled": start, "first_token": start, "finish": start + 10.0 / lengths,
                "prompt_tokens": zeros + 1, "output_tokens": zeros + 100, "cached_tokens": zeros,
                "preemptions": zeros, "verify_steps": zeros + verify_steps, "draft_tokens": zeros,
                "accepted_tokens": np.rint(verify_steps * (lengths - 1)).astype(int), "slo_met": zeros == 0,
                "status": np.full(N, "finished"),
            }
        )  # fmt: skip
        place, kind = shift
        events = [Event(float(at) - 0.5, kind, {"to": "x"}) for at in np.atleast_1d(place)]
        events += [
            Event(float(np.max(place)) + 100, "swap", {"ok": True, "stall": 0.0, "version": 1})
        ] * swaps
        cell.events([*events, Event(float(N), "trainer", {"busy_seconds": 7.0})])


STATIC = np.where(np.arange(N) < 300, 2.0, 1.2)
JUMP = np.where(np.arange(N) < 300, 2.0, np.where(np.arange(N) < 400, 1.2, 2.2))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    run = write(tmp_path_factory.mktemp("r") / "run", {"static:4": STATIC, "learns": JUMP}, swaps=("learns",))
    return recovery(run)


def test_the_reference_is_the_arm_that_never_swaps(found):
    assert found["reference"] == "static:4"
    assert set(found["arms"]) == {"static:4", "learns"}


def test_only_segments_with_something_to_recover_count(found):
    assert [(s["begin"], s["end"], s["best"]) for s in found["segments"]] == [(300, 600, "learns")]
    assert found["segments"][0]["static"] == pytest.approx(1.2)
    assert found["segments"][0]["reach"] == pytest.approx(2.2)


def test_recovery_counts_requests_until_the_moving_mean_is_there(found):
    """100 requests at 1.2, then 2.2: the mean over 50 passes 2.0 once 40 of them are new."""
    assert found["arms"]["learns"]["recovery"]["mean"] == 100 + SHARE * WINDOW
    assert found["arms"]["static:4"]["recovery"]["mean"] == 300
    assert (found["arms"]["learns"]["censored"], found["arms"]["static:4"]["censored"]) == (0.0, 1.0)


def test_what_was_made_good_of_the_loss_counts_from_the_levels_before(tmp_path):
    """A drafter that stood at 2.5 before, beside a static one at 2.0; both at 1.2 after, one comes back to 2.2."""
    better = np.where(np.arange(N) < 300, 2.5, JUMP)
    run = write(tmp_path / "run", {"static:4": STATIC, "learns": better}, swaps=("learns",))
    first, second = recovery(run)["arms"]["learns"]["segments"]
    assert first["made_good"]["mean"] is first["made_good_static"]["mean"] is None, (
        "nothing was lost at the start"
    )
    assert second["made_good"]["mean"] == pytest.approx(1.0 / 1.3)
    assert second["made_good_static"]["mean"] == pytest.approx(1.0 / 0.8)


@pytest.mark.parametrize(("kind", "before"), [("shift", 2.0 - 5 / 60), ("verifier_update", 2.0)])
def test_requests_under_way_at_a_new_verifier_belong_to_no_segment(tmp_path, kind, before):
    """The last five requests before it last ten seconds, so they are answered by both."""
    straddle = np.where((np.arange(N) >= 295) & (np.arange(N) < 300), 1.0, JUMP)
    run = write(tmp_path / "run", {"static:4": STATIC, "learns": straddle}, swaps=("learns",), kind=kind)
    segment = recovery(run)["arms"]["learns"]["segments"][-1]
    assert segment["made_good"]["mean"] == pytest.approx(1.0 / (before - 1.2))


def test_nothing_is_said_of_the_level_before_where_that_segment_was_too_short(tmp_path):
    run = write(tmp_path / "run", {"static:4": STATIC, "learns": JUMP}, shift=(250, 300), swaps=("learns",))
    found = recovery(run)
    assert [(s["begin"], s["before"]) for s in found["segments"]] == [(300, None)]
    assert found["arms"]["learns"]["segments"][0]["made_good"]["mean"] is None


def test_requests_to_a_level_count_from_the_start_of_the_run(tmp_path):
    climbs = np.where(np.arange(N) < 300, 1.0, 2.0)
    run = write(tmp_path / "run", {"static:4": np.full(N, 1.2), "bandit": climbs}, swaps=("bandit",))
    found = recovery(run, level=2.0)
    assert found["level"] == 2.0
    assert found["arms"]["bandit"]["to_level"]["mean"] == 300 + WINDOW
    assert found["arms"]["bandit"]["to_level"]["never"] == 0.0
    assert found["arms"]["static:4"]["to_level"] | {"low": None, "high": None} == {
        "mean": float(N), "low": None, "high": None, "never": 1.0,
    }  # fmt: skip
    with pytest.raises(InputError, match="above 1"):
        recovery(run, level=1.0)


def test_area_dip_and_seconds(found):
    static, learns = found["arms"]["static:4"], found["arms"]["learns"]
    assert static["area"]["mean"] == pytest.approx(1.0)
    ramp = sum((WINDOW - i) / WINDOW for i in range(1, WINDOW + 1))
    assert learns["area"]["mean"] == pytest.approx((100 + ramp) / 300)
    assert static["dip"]["mean"] == 1.0
    assert learns["dip"]["mean"] > 1.0
    saved = 200 * (10 / 1.2 - 10 / 2.2) / (300 * 10 / 2.0 + 300 * 10 / 1.2)
    assert learns["saved"]["mean"] == pytest.approx(saved)
    assert learns["trained"]["mean"] == 7.0


def test_an_arm_that_is_worse_for_a_while_dips(tmp_path):
    worse = np.where(np.arange(N) < 300, 2.0, 1.2) - 0.1 * (np.arange(N) >= 50)
    run = write(tmp_path / "run", {"static:4": STATIC, "worse": worse})
    assert recovery(run, "static:4")["arms"]["worse"]["dip"]["mean"] < 0.97


def test_where_every_arm_adapts_the_loss_is_read_off_the_first_requests(tmp_path):
    """Alone, it falls from 2.0 to 1.2 and comes to 2.2."""
    found = recovery(write(tmp_path / "run", {"learns": JUMP}, swaps=("learns",)))
    assert (found["reference"], found["adapts"]) == ("learns", True)
    (segment,) = found["segments"]
    assert segment["static"] == pytest.approx(1.2)
    (figures,) = found["arms"]["learns"]["segments"]
    assert figures["made_good"]["mean"] == pytest.approx(1.0 / 0.8)
    assert found["arms"]["learns"]["recovery"]["mean"] == 100 + SHARE * WINDOW


def test_a_reference_that_does_not_draft_or_is_not_there_is_said_so(tmp_path):
    run = write(tmp_path / "run", {"learns": JUMP}, swaps=("learns",))
    with pytest.raises(UnknownName):
        recovery(run, "static:4")
    idle = write(tmp_path / "idle", {"none": np.ones(N)}, steps=0)
    with pytest.raises(InputError, match="no arm of this run drafts"):
        recovery(idle)
