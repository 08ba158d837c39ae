"""A model recorded from whole steps: it gives back a known cost, keeps the mean, never invents speed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.latency import StepShape, decode_shape
from harness.latency.recorded import fit_recorded, fit_steps
from harness.latency.recorded_basis import knots, table
from harness.latency.recorded_steps import step_rows
from tests.latency.steplog import BLOCK, cost, step_log
from tests.latency.test_growth import HOW, grown, shapes

KS = ((0,), (1,), (3,), (0, 2, 5))
GRID = [decode_shape(b, k, c) for b in (1, 3, 8, 14) for k in (0, 1, 2, 3, 4, 5) for c in (150.0, 400.0)]


@cache
def logs(noise: float = 0.08, stalls: float = 0.0, steps: int = 1500):
    """An arm without a drafter, then one for each of `KS`."""
    found = [step_log((0,), steps, 9, noise, stalls, loaded=False)]
    return found + [step_log(ks, steps, seed, noise, stalls) for seed, ks in enumerate(KS)]


@cache
def model():
    """Of noisy steps."""
    return fitted(logs())


def fitted(found, errors=False):
    loaded = [False] + [True] * (len(found) - 1)
    frames = [log.frame for log in found]
    arms = ["none", *(f"K {ks}" for ks in KS)][: len(frames)]
    both = fit_recorded(frames, loaded, "log", BLOCK, arms=arms)
    return both if errors else both.model


# --- recovery ---------------------------------------------------------------------------------


def test_a_known_cost_comes_back_within_three_percent():
    alone = [replace(s, drafter_loaded=False) for s in GRID if s.draft_passes == 0]
    assert max(abs(model().predict(s) / cost(s) - 1) for s in GRID + alone) < 0.03


def test_the_parts_are_told_apart():
    parts = fitted(logs(noise=0.0)).explain(decode_shape(8, 3, 400.0)).parts
    passes = 3 * (0.6e-3 + 8 * 0.02e-3) + 2 * 0.3e-3
    assert parts["draft"] == pytest.approx(1e-3 + 32 * 0.02e-3 + passes, rel=0.05)
    assert parts["attention"] == pytest.approx(8 * 400 * 2e-7, rel=0.15)


def test_prompt_tokens_are_priced():
    """A step with a prompt beside decoding sequences, and how much the prompt adds."""
    with_prompt = [s for log in logs() for s in log.shapes if s.prefill_tokens > 50]
    off = np.array([model().predict(s) / cost(s) - 1 for s in with_prompt])
    assert np.abs(off).mean() < 0.02
    assert abs(off.mean()) < 0.01


def test_every_step_of_the_log_is_predicted_and_the_sum_is_kept():
    """Without noise: what the log cannot tell (exact contexts) costs well under a percent."""
    found = logs(noise=0.0)
    model = fitted(found)
    off = [model.predict(s) / cost(s) - 1 for log in found for s in log.shapes]
    assert np.abs(off).mean() < 0.005
    assert abs(np.mean(off)) < 0.002


def test_stalls_move_the_mean_not_the_shape():
    """One step in 100 takes 0.1 s more: seconds still sum to the measured ones, and drafts cost as much more."""
    found = logs(stalls=0.01)
    model = fitted(found)
    measured = sum(log.frame["seconds"].sum() for log in found)
    predicted = sum(model.predict(s) for log in found for s in log.shapes)
    assert predicted == pytest.approx(measured, rel=0.005)
    assert float(model.provenance["mean"].split()[0]) == pytest.approx(1.0, abs=0.3)  # ms
    for batch in (2, 12):
        at = [decode_shape(batch, k, 300.0) for k in (4, 0)]
        true = cost(at[0]) - cost(at[1])
        assert model.predict(at[0]) - model.predict(at[1]) == pytest.approx(true, rel=0.03)


def test_a_machine_slower_for_a_part_of_a_run_keeps_each_arms_sum():
    """Two fifths of the steps without a drafter take 1.2 times as long: its sum is kept, and theirs."""
    none, *rest = logs(noise=0.02)
    more = np.where(np.arange(len(none.frame)) % 500 >= 300, 0.2, 0.0) * none.frame["seconds"].to_numpy()
    later = none.frame["start"] + np.cumsum(more) - more
    slowed = replace(none, frame=none.frame.assign(seconds=none.frame["seconds"] + more, start=later))
    model = fitted([slowed, *rest])
    for log in (slowed, *rest):
        predicted = sum(model.predict(s) for s in log.shapes)
        assert predicted == pytest.approx(log.frame["seconds"].sum(), rel=0.01)


def test_pauses_between_steps_are_waited_for():
    """The engine's own loop takes 1 ms after each step: it is in no step's seconds, and in every step's price."""
    found = logs()
    late = [log.frame.assign(start=log.frame["start"] + 1e-3 * np.arange(len(log.frame))) for log in found]
    paused = fitted([replace(log, frame=frame) for log, frame in zip(found, late, strict=True)])
    for batch in (2, 12):
        shape = decode_shape(batch, 2, 300.0)
        assert paused.predict(shape) - model().predict(shape) == pytest.approx(1e-3, rel=0.05)
    assert paused.provenance["between steps"].startswith("measured: 1.0")


def test_a_hiccup_is_no_step():
    """Five seconds of compilation in one step change nothing but what is said of them."""
    found = logs()
    frame = found[2].frame.copy()
    frame.loc[700, "seconds"] += 5.0
    frame.loc[701:, "start"] += 5.0
    slow = fitted([*found[:2], replace(found[2], frame=frame), *found[3:]])
    assert slow.predict(GRID[5]) == pytest.approx(model().predict(GRID[5]), rel=0.002)
    assert "left out as no steps: 1 of 5.0 s" in slow.provenance["mean"]


def test_few_steps_are_enough_for_a_calibration_before_a_run():
    few = fitted(logs(steps=150))
    off = np.array([few.predict(s) / cost(s) - 1 for s in GRID])
    assert np.abs(off).mean() < 0.03


# --- what the log does not tell ---------------------------------------------------------------


def test_draft_passes_are_the_next_steps_k():
    """A pause, or a step without decoding sequences behind it, leaves the passes unknown."""
    log = step_log((0, 2), 60)
    frame = log.frame.copy()
    frame.loc[30:, "start"] += 1.0
    frame.loc[40:, "start"] += 0.001
    frame.loc[50, "batch"] = 0
    frame.loc[50, "prefill_tokens"] = 9
    rows = step_rows([frame], [True], BLOCK)
    assert len(rows) == 60 - 3
    assert rows["pause"].sum() == pytest.approx(0.001)
    before = [s.draft_passes for i, s in enumerate(log.shapes) if i not in (29, 49, 59)]
    assert rows["passes"].tolist() == before


def test_context_is_read_off_the_blocks():
    log = step_log((3,), 400)
    rows = step_rows([log.frame], [True], BLOCK, look_ahead=5)
    true = np.array([s.kv_sum + s.prefill_tokens for s in log.shapes[:-1]])
    assert rows["context"].mean() == pytest.approx(true.mean(), rel=0.01)
    assert np.abs(rows["context"] - true).max() < 16 * BLOCK / 2


def test_those_that_ended_are_counted_though_their_blocks_are_gone():
    """Four sequences of equal context decode; one ended in the step, so the log counts three and their blocks."""
    frame = step_log((0,), 20, loaded=False).frame.assign(batch=4, prefill_tokens=0, running=4, kv_blocks=40)
    ended = frame.assign(running=3, kv_blocks=30)
    contexts = [step_rows([f], [False], BLOCK)["context"].tolist() for f in (frame, ended)]
    assert contexts[0] == pytest.approx(contexts[1])
    assert contexts[0][0] == pytest.approx(40 * BLOCK - 4 * (BLOCK - 1) / 2 - 4)


def test_without_idle_steps_an_idle_drafter_is_not_cheaper_than_its_only_passes():
    """Only K = 3 was seen: what its drafting costs is charged at every K, for nothing says otherwise."""
    found = [step_log((0,), 600, 9, loaded=False), step_log((3,), 600)]
    model = fit_steps([log.frame for log in found], [False, True], "log", BLOCK)
    drafting = [
        model.explain(replace(decode_shape(4, 3, 200.0), draft_passes=p)).parts["draft"] for p in range(4)
    ]
    assert drafting == pytest.approx([drafting[3]] * 4)
    assert "no idle drafter (K = 0): priced as these" in model.provenance["draft"]
    assert model.max_k == 3


def test_without_an_arm_without_a_drafter_its_absence_saves_nothing():
    found = [step_log((0, 3), 600)]
    model = fit_steps([log.frame for log in found], [True], "log", BLOCK)
    idle = decode_shape(4, 0, 200.0)
    assert model.predict(replace(idle, drafter_loaded=False)) == model.predict(idle)
    assert "no step without a drafter" in model.provenance["draft"]
    assert model.predict(idle) == pytest.approx(cost(idle), rel=0.03)


def test_no_drafter_no_draft_passes():
    model = fit_steps([step_log((0,), 600, loaded=False).frame], [False], "log", BLOCK)
    assert not model.has_drafter
    with pytest.raises(InputError, match="no price for draft passes"):
        model.predict(decode_shape(4, 1, 100.0))


def test_the_ends_of_the_ranges_say_so():
    assert model().explain(decode_shape(8, 3, 300.0)).basis["tokens"] == "interpolated"
    assert model().explain(decode_shape(200, 3, 300.0)).basis["tokens"] == "extrapolated"


def test_tables_go_on_with_a_slope_though_their_end_is_flat():
    seconds = table(1.0, np.array([4.0, 0.0]), np.array([0.0, 8.0, 12.0]))
    assert seconds[[0, 4, 8, 12]].tolist() == [1.0, 3.0, 5.0, 5.0]
    assert seconds[13] - seconds[12] == pytest.approx((5.0 - 4.0) / 6)


def test_knots_need_steps_between_them():
    sizes = np.repeat([1, 2, 3, 60, 64], [50, 50, 50, 5, 50])
    assert knots(pd.Series(sizes), 2).tolist() == [1.0, 2.0, 4.0, 64.0]


# --- monotone ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shape=shapes(), how=st.sampled_from(HOW), by=st.integers(1, 600))
def test_a_step_that_grows_never_gets_cheaper(shape, how, by):
    shape = within_k(shape, model().max_k)
    more = within_k(grown(shape, how, by), model().max_k)
    assert model().predict(more) >= model().predict(shape) - 1e-12


def within_k(shape: StepShape, most: int) -> StepShape:
    return replace(
        shape, query_tokens=min(shape.query_tokens, 1 + most), draft_passes=min(shape.draft_passes, most)
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_even_of_nonsense_a_monotone_model_is_made(seed):
    """Seconds drawn at random: no part is negative, more tokens, passes and context never cost less."""
    rng = np.random.default_rng(seed)
    frame = step_log((0, 2, 4), 400, seed).frame
    frame["seconds"] = rng.exponential(0.01, len(frame)) + 1e-4
    frame["start"] = np.concatenate([[0.0], np.cumsum(frame["seconds"])[:-1]])
    compiled = fit_steps([frame], [True], "log", BLOCK).compiled
    for values in compiled:
        assert np.all(np.asarray(values) >= 0)
    for name in ("token_s", "head_s", "draft_first_s", "draft_next_s", "draft_head_s", "draft_idle_s"):
        assert np.all(np.diff(getattr(compiled, name)) >= -1e-15)
    assert np.all(compiled.draft_first_s >= compiled.draft_idle_s)


# --- errors -----------------------------------------------------------------------------------


def test_held_out_errors_by_arm_and_k():
    found = fitted(logs(), errors=True)
    whole = found.errors[-1]
    assert (whole.arm, whole.k) == ("all", None)
    assert whole.mean < 0.03
    assert abs(whole.bias) < 0.01
    assert {(e.arm, e.k) for e in found.errors} >= {
        ("none", 0),
        ("K (3,)", 3),
        ("K (0, 2, 5)", 5),
        ("none", None),
    }
    assert "held-out error" in found.model.note


def test_a_slow_arm_shows_as_bias():
    """What slows one arm alone (a trainer beside it) is in no step's size: its arm comes out too fast."""
    found = logs(noise=0.02)
    frame = found[4].frame.assign(seconds=found[4].frame["seconds"] * 1.2)
    frame["start"] = np.concatenate([[0.0], np.cumsum(frame["seconds"])[:-1]])
    errors = fitted([*found[:4], replace(found[4], frame=frame)], errors=True).errors
    bias = {e.arm: e.bias for e in errors if e.k is None}
    assert bias["K (0, 2, 5)"] < -0.05
    assert bias["none"] > 0.0
    assert abs(bias["all"]) < 0.01


GOOD = step_log((0, 3), 400)


@pytest.mark.parametrize(
    ("frames", "loaded", "block", "sentence"),
    [
        ([GOOD.frame], [True, False], 16, "1 step tables, but drafter_loaded says so of 2"),
        ([GOOD.frame], [True], 0, "block_size is 0"),
        ([GOOD.frame], [False], 16, "verifies drafts .* without a drafter"),
        ([GOOD.frame.drop(columns="kv_blocks")], [True], 16, "lacks column 'kv_blocks'"),
        ([GOOD.frame.assign(seconds=0.0)], [True], 16, "seconds is 0.0; it must be finite and positive"),
        ([GOOD.frame.assign(batch=-1)], [True], 16, "batch is -1.0; it must be finite and not negative"),
        ([GOOD.frame.iloc[::-1]], [True], 16, "not in order of time"),
        ([GOOD.frame.iloc[:100]], [True], 16, "log has 99 usable steps .of 100. at [0-9]+ batch sizes"),
        ([GOOD.frame.assign(batch=4)], [True], 16, "399 usable steps .of 400. at 1 batch sizes"),
        ([], [], 16, "log has 0 usable steps .of 0. at 0 batch sizes"),
    ],
)
def test_bad_step_tables_are_refused(frames, loaded, block, sentence):
    with pytest.raises(InputError, match=sentence):
        fit_steps(frames, loaded, "log", block)
