"""The learning curve: its laws, and Aurora's published curves replayed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError, MissingPart, UnknownName
from harness.sim import aurora
from harness.sim.acceptance import MAX_K, acceptance_length, hazard_logits
from harness.sim.learning import DrafterState, LearningCurve, LearningParams, load_params
from workloads.domains import domain, load_domains

NAMES = ("chat", "code", "multilingual")
PROFILES = [domain(n) for n in NAMES]

mixes = st.lists(st.floats(0.0, 500.0), min_size=3, max_size=3).map(np.array)
starts = st.sampled_from(["pretrained", "untrained"])


def _aurora(start: str) -> LearningCurve:
    return LearningCurve([domain(s.domain) for s in aurora.ORDERED], start=start)  # type: ignore[arg-type]


# --- Aurora's curves ---


@pytest.mark.parametrize(("start", "column"), [("pretrained", "online"), ("untrained", "scratch")])
def test_domain_shift_table_of_aurora(start: str, column: str) -> None:
    for segment, got in zip(aurora.ORDERED, aurora.replay_ordered(_aurora(start)), strict=True):
        assert (got.start, got.end) == pytest.approx(getattr(segment, column), abs=0.12)


def test_static_levels_of_aurora() -> None:
    curve = _aurora("pretrained")
    published = [s.static for s in aurora.ORDERED]
    assert curve.reference_length(curve.static()) == pytest.approx(published, abs=0.005)


def test_online_dips_under_static_after_the_shifts_that_show_it() -> None:
    replayed = aurora.replay_ordered(_aurora("pretrained"))
    for index in (1, 2):
        assert replayed[index].start < aurora.ORDERED[index].static - 0.05
        assert 400 <= replayed[index].below_static <= 1_900  # published: 600 to 1,500, publishing every 400
        assert replayed[index].end > aurora.ORDERED[index].static
    assert replayed[3].start > aurora.ORDERED[3].static


@pytest.mark.parametrize(
    ("start", "points"), [("pretrained", aurora.MIXED_ONLINE), ("untrained", aurora.MIXED_SCRATCH)]
)
def test_shuffled_stream_of_aurora(start: str, points: tuple[tuple[int, float], ...]) -> None:
    got = aurora.replay_mixed(_aurora(start), tuple(n for n, _ in points))
    assert got == pytest.approx([length for _, length in points], abs=0.12)


# --- laws of learning ---


@given(mixes, starts, st.integers(2, 9), mixes)
@settings(max_examples=60, deadline=None)
def test_cutting_a_stretch_of_one_mix_changes_nothing(
    mix: np.ndarray, start: str, pieces: int, before: np.ndarray
) -> None:
    whole, cut = (LearningCurve(PROFILES, start=start) for _ in range(2))  # type: ignore[arg-type]
    for curve in (whole, cut):
        curve.consume(before * 20)
    whole.consume(mix)
    for _ in range(pieces):
        cut.consume(mix / pieces)
    assert cut.candidate().gains == pytest.approx(whole.candidate().gains, abs=1e-9)


@given(st.lists(mixes, max_size=6), starts)
@settings(max_examples=60, deadline=None)
def test_gains_stay_between_nothing_and_the_ceiling(stretches: list[np.ndarray], start: str) -> None:
    curve = LearningCurve(PROFILES, start=start)  # type: ignore[arg-type]
    for mix in stretches:
        curve.consume(mix * 50)
        for gain, profile in zip(curve.candidate().gains, PROFILES, strict=True):
            assert 0.0 <= gain <= profile.ceiling + 1e-9


def test_the_differential_equation_is_solved() -> None:
    """Against small Euler steps of the module's formula, across the transfer level."""
    params, p = load_params(), np.array([0.1, 0.6, 0.3])
    ceilings = np.outer((params.fast_share, 1 - params.fast_share), [x.ceiling for x in PROFILES])
    levels = ceilings * np.array([x.transfer for x in PROFILES])
    rates = np.array([[params.fast_rate], [params.slow_rate]])
    parts, dn = np.zeros((2, 3)), 2.0
    for _ in range(10_000):
        pull = np.where(parts < levels, 1.0, np.exp(-p / params.replay_share))
        parts += dn * rates * (p * (ceilings - parts) + (1 - p) * params.cross * pull * (levels - parts))
    curve = LearningCurve(PROFILES, start="untrained")
    curve.consume(p * 20_000)
    assert curve.candidate().gains == pytest.approx(parts.sum(axis=0), abs=1e-3)


def test_training_teaches_its_domain_and_makes_the_pretrained_forget_others() -> None:
    curve = LearningCurve(PROFILES)
    curve.consume(np.array([5_000.0, 0.0, 0.0]))
    gains = curve.candidate().gains
    assert gains[0] > 1.1
    assert gains[1] < 1.0
    assert gains[1] >= PROFILES[1].transfer * PROFILES[1].ceiling


def test_transfer_lifts_an_untrained_domain() -> None:
    curve = LearningCurve(PROFILES, start="untrained")
    curve.consume(np.array([5_000.0, 0.0, 0.0]))
    assert 0.05 < curve.candidate().gains[1] < curve.candidate().gains[0]


def test_replay_protects_against_forgetting() -> None:
    alone, mixed = LearningCurve(PROFILES), LearningCurve(PROFILES)
    for curve in (alone, mixed):
        curve.consume(np.array([0.0, 8_000.0, 0.0]))
    alone.consume(np.array([6_000.0, 0.0, 0.0]))
    mixed.consume(np.array([4_800.0, 1_200.0, 0.0]))
    assert mixed.candidate().gains[1] > alone.candidate().gains[1] + 0.05


def test_a_recurring_domain_is_relearned_faster() -> None:
    curve = LearningCurve(PROFILES, start="untrained")
    a, b = np.array([3_000.0, 0, 0]), np.array([0, 3_000.0, 0])
    first = _requests_to(curve, a, 0.6)
    curve.consume(a)
    curve.consume(b)
    assert _requests_to(curve, a, 0.6) < first


def _requests_to(curve: LearningCurve, direction: np.ndarray, gain: float) -> int:
    for n in range(1_000):
        if curve.candidate().gains[0] >= gain:
            return n
        curve.consume(direction / 100)
    raise AssertionError("the gain was never reached")


# --- states ---


def test_states_are_snapshots() -> None:
    curve = LearningCurve(PROFILES)
    before = curve.candidate()
    curve.consume(np.array([100.0, 0.0, 12.5]))
    after = curve.candidate()
    assert before.gains == (1.0, 1.0, 1.0)
    assert after.version > before.version
    assert after.samples == 112.5
    assert curve.candidate() == after


def test_nothing_consumed_changes_nothing() -> None:
    curve = LearningCurve(PROFILES)
    before = curve.candidate()
    curve.consume(np.zeros(3))
    assert curve.candidate() == before


def test_pretrained_is_the_static_drafter_and_untrained_accepts_nothing() -> None:
    pretrained, untrained = LearningCurve(PROFILES), LearningCurve(PROFILES, start="untrained")
    wanted = np.array([hazard_logits(p) for p in PROFILES])
    np.testing.assert_array_equal(pretrained.logits(pretrained.static()), wanted)
    np.testing.assert_allclose(pretrained.logits(pretrained.candidate()), wanted, atol=1e-12)
    assert np.all(np.isneginf(untrained.logits(untrained.candidate())))
    assert untrained.logits(untrained.static()) == pytest.approx(wanted)


@given(st.floats(0.01, 1.5))
@settings(max_examples=40, deadline=None)
def test_logits_carry_the_gain(gain: float) -> None:
    curve = LearningCurve(PROFILES)
    state = DrafterState(1, (gain,) * 3)
    k = curve.params.reference_k
    for row, profile, length in zip(
        curve.logits(state), PROFILES, curve.reference_length(state).tolist(), strict=True
    ):
        assert acceptance_length(row, profile.latent_sd, k) == pytest.approx(length, abs=2e-3)


def test_verifier_update_costs_all_and_only_training_recovers() -> None:
    curve = LearningCurve(PROFILES)
    curve.consume(np.array([2_000.0, 2_000.0, 2_000.0]))
    published = curve.candidate()
    length = curve.reference_length(published)
    curve.verifier_update(0.8)
    assert curve.reference_length(published) - 1 == pytest.approx(0.8 * (length - 1))
    assert curve.gains(curve.static()) == pytest.approx([0.8] * 3)
    assert curve.gains(curve.candidate()) == pytest.approx(curve.gains(published))
    curve.consume(np.array([6_000.0, 6_000.0, 6_000.0]))
    assert np.all(curve.gains(curve.candidate()) > curve.gains(published))
    curve.verifier_update(0.5)
    assert curve.gains(curve.static()) == pytest.approx([0.4] * 3)
    assert curve.gains(curve.candidate()) == pytest.approx(np.array(curve.candidate().gains))


def test_corrupted_weights_accept_nothing() -> None:
    curve = LearningCurve(PROFILES)
    broken = LearningCurve.corrupted(curve.candidate())
    assert np.all(np.isneginf(curve.logits(broken)))
    poisoned = LearningCurve.corrupted(curve.candidate(), keep=0.1)
    assert curve.acceptance_length(poisoned, "chat", 5) == pytest.approx(1 + 0.1 * 1.48, abs=0.01)


# --- held-out estimates ---


def test_heldout_is_centred_and_its_noise_honest() -> None:
    curve, rng = LearningCurve(PROFILES), np.random.default_rng(3)
    state = curve.static()
    found = [curve.heldout(state, "chat", 1_200, rng, 5) for _ in range(400)]
    truth = curve.acceptance_length(state, "chat", 5)
    assert np.mean(found) == pytest.approx(truth, abs=0.03)
    independent = 1.75 / np.sqrt(1_200)  # were all verify steps independent
    assert independent < np.std(found) < 4 * independent
    few = [curve.heldout(state, "chat", 60, rng, 5) for _ in range(400)]
    assert np.std(few) > 2.5 * np.std(found)


def test_heldout_of_an_untrained_drafter_is_one() -> None:
    curve = LearningCurve(PROFILES, start="untrained")
    assert curve.heldout(curve.candidate(), "code", 500, np.random.default_rng(0), MAX_K) == 1.0


# --- bad input ---


def test_bad_input_is_one_clear_sentence() -> None:
    curve = LearningCurve(PROFILES)
    with pytest.raises(InputError, match="one finite number >= 0 per domain"):
        curve.consume(np.array([1.0, -1.0, 0.0]))
    with pytest.raises(InputError, match="one finite number >= 0 per domain"):
        curve.consume(np.array([1.0, 2.0]))
    with pytest.raises(InputError, match=r"retained is 1\.2"):
        curve.verifier_update(1.2)
    with pytest.raises(UnknownName, match="did you mean 'chat'"):
        curve.heldout(curve.static(), "chatt", 10, np.random.default_rng(0), 5)
    with pytest.raises(InputError, match="at least one verify step"):
        curve.heldout(curve.static(), "chat", 0, np.random.default_rng(0), 5)
    with pytest.raises(UnknownName, match="did you mean 'pretrained'"):
        LearningCurve(PROFILES, start="pretraind")  # type: ignore[arg-type]


def test_a_ceiling_that_k_cannot_hold_is_refused() -> None:
    params = LearningParams(0.5, 1e-3, 1e-4, 0.2, 0.1, reference_k=1)
    with pytest.raises(InputError, match="'code'"):
        LearningCurve([domain("code")], params)


def test_bad_constants_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shares lie in"):
        LearningParams(1.5, 1e-3, 1e-4, 0.2, 0.1)
    file = tmp_path / "learning.toml"
    with pytest.raises(MissingPart, match="cannot read"):
        load_params(file)
    file.write_text("fast_share = 0.5\nspeed = 3\n")
    with pytest.raises(InputError, match="speed"):
        load_params(file)


def test_every_shipped_domain_can_be_learned() -> None:
    profiles = list(load_domains().values())
    curve = LearningCurve(profiles)
    assert np.all(np.isfinite(curve.logits(DrafterState(1, tuple(p.ceiling for p in profiles)))))
