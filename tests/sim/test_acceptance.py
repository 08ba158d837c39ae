"""The parametric acceptance model: its draws, its population figures, its fit to published data."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy import integrate, stats
from scipy.special import expit

from harness.errors import InputError
from harness.rng import stream_key
from harness.sim.acceptance import (
    MAX_K,
    acceptance_length,
    accepted_drafts,
    hazard_logits,
    population_acceptance,
    request_latent,
    solve_logits,
    uniform,
)
from workloads.domains import domain, load_domains

KEY = np.uint64(stream_key(7, "acceptance"))
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "specdec" / "acceptance.csv"

keys = st.integers(0, 2**64 - 1).map(np.uint64)
requests = st.integers(0, 2**40)
positions = st.integers(0, 2**20)


@njit
def _uniforms(key: np.uint64, requests: int, positions: int) -> np.ndarray:
    found = np.empty((requests, positions))
    for r in range(requests):
        for p in range(positions):
            found[r, p] = uniform(key, r, p)
    return found


@njit
def _latents(key: np.uint64, requests: int) -> np.ndarray:
    return np.array([request_latent(key, r, 1.0) for r in range(requests)])


@njit
def _serve(key: np.uint64, requests: int, tokens: int, k: int, logits: np.ndarray, sd: float) -> np.ndarray:
    """float64[steps, 2]: (request, drafts accepted) of every verify step, in order."""
    rows = []
    for r in range(requests):
        latent = request_latent(key, r, sd)
        position = 0
        while position < tokens:
            accepted = accepted_drafts(key, r, position, k, logits, 0, latent)
            rows.append((r, accepted))
            position += accepted + 1
    return np.array(rows, dtype=np.float64)


# --- draws by counter ---


def test_uniforms_are_uniform() -> None:
    sample = _uniforms(KEY, 400, 500)
    assert sample.min() >= 0.0
    assert sample.max() < 1.0
    assert stats.kstest(sample.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(sample[:, 3], "uniform").pvalue > 1e-3  # one position over requests
    counts = np.histogram(sample, bins=1000, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("lag", [1, 2, 5, 16])
def test_neighbouring_uniforms_are_independent(lag: int) -> None:
    sample = _uniforms(KEY, 400, 500)
    other = _uniforms(KEY + np.uint64(lag), 400, 500)
    pairs = (
        (sample[:, lag:], sample[:, :-lag]),
        (sample[lag:], sample[:-lag]),
        (sample, other),
        (sample[lag:, :-lag], sample[:-lag, lag:]),  # request and position must not merge into one counter
    )
    for a, b in pairs:
        cells = np.histogram2d(a.ravel(), b.ravel(), bins=20, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(cells.ravel()).pvalue > 1e-3


def test_no_two_counters_collide() -> None:
    sample = _uniforms(KEY, 300, 300)
    assert np.unique(sample).size == sample.size


def test_latents_are_standard_normal_and_apart_from_the_uniforms() -> None:
    latents = _latents(KEY, 50_000)
    assert stats.kstest(latents, "norm").pvalue > 1e-3
    first = _uniforms(KEY, 50_000, 2)
    for position in (0, 1):
        assert abs(np.corrcoef(latents, first[:, position])[0, 1]) < 0.02


def test_latent_scales_with_sd() -> None:
    assert request_latent(KEY, 5, 0.0) == 0.0
    assert request_latent(KEY, 5, 2.0) == pytest.approx(2.0 * request_latent(KEY, 5, 1.0))


# --- one verify step ---


@given(keys, requests, positions, st.integers(0, MAX_K), st.floats(-3, 3), st.floats(-2, 2))
@settings(max_examples=200, deadline=None)
def test_a_smaller_k_cuts_the_same_chain(
    key: np.uint64, request: int, position: int, k: int, logit: float, latent: float
) -> None:
    logits = np.full((1, MAX_K), logit)
    deepest = accepted_drafts(key, request, position, MAX_K, logits, 0, latent)
    assert accepted_drafts(key, request, position, k, logits, 0, latent) == min(k, deepest)


@given(keys, requests, positions, st.floats(-3, 3), st.floats(0, 2))
@settings(max_examples=100, deadline=None)
def test_a_better_drafter_never_accepts_less(
    key: np.uint64, request: int, position: int, logit: float, better: float
) -> None:
    worse, good = np.full((1, MAX_K), logit), np.full((1, MAX_K), logit + better)
    assert accepted_drafts(key, request, position, MAX_K, worse, 0, 0.0) <= accepted_drafts(
        key, request, position, MAX_K, good, 0, 0.0
    )


@given(keys, requests, positions)
@settings(max_examples=50, deadline=None)
def test_draft_at_depth_i_reads_the_uniform_of_its_output_position(
    key: np.uint64, request: int, position: int
) -> None:
    draws = [uniform(key, request, position + i) for i in range(MAX_K)]
    wanted = next((i for i, u in enumerate(draws) if u >= expit(0.8)), MAX_K)
    assert accepted_drafts(key, request, position, MAX_K, np.full((1, MAX_K), 0.8), 0, 0.0) == wanted


def test_minus_infinity_accepts_nothing_and_domains_have_their_own_row() -> None:
    logits = np.array([np.full(MAX_K, -np.inf), np.full(MAX_K, 40.0)])
    for request in range(200):
        assert accepted_drafts(KEY, request, 3, MAX_K, logits, 0, 5.0) == 0
        assert accepted_drafts(KEY, request, 3, MAX_K, logits, 1, 0.0) == MAX_K


# --- population figures ---


def test_without_a_latent_the_population_is_the_plain_chain() -> None:
    logits = np.full(MAX_K, 0.4)
    a = expit(0.4)
    assert population_acceptance(logits, 0.0, 3) == pytest.approx((a, a**2, a**3))
    assert acceptance_length(logits, 0.0, 7) == pytest.approx((1 - a**8) / (1 - a))
    assert acceptance_length(logits, 0.5, 0) == 1.0


def test_acceptance_length_is_the_harmonic_mean_over_requests() -> None:
    sd = 1.1

    def density(z: float) -> float:
        a = expit(0.3 + z)
        return stats.norm.pdf(z, scale=sd) / (1 + a + a * a)

    inverse = integrate.quad(density, -12, 12, epsabs=1e-12)[0]
    assert acceptance_length(np.full(MAX_K, 0.3), sd, 2) == pytest.approx(1.0 / inverse, abs=1e-8)


def test_equal_logits_give_hazards_that_rise() -> None:
    chain = np.array(population_acceptance(np.full(MAX_K, 0.3), 0.8, 6))
    hazards = chain / np.append(1.0, chain[:-1])
    assert np.all(np.diff(hazards) > 0)


@given(
    st.lists(st.floats(0.02, 0.97), min_size=1, max_size=MAX_K),
    st.floats(0.0, 1.0),
    st.integers(1, MAX_K),
)
@settings(max_examples=40, deadline=None)
def test_solved_logits_give_back_the_hazards(hazards: list[float], sd: float, k: int) -> None:
    logits = solve_logits(tuple(hazards), sd, k)
    chain = np.array(population_acceptance(logits, sd, k))
    wanted = [hazards[min(i, len(hazards) - 1)] for i in range(k)]
    assert chain / np.append(1.0, chain[:-1]) == pytest.approx(wanted, abs=1e-7)


def test_the_last_hazard_repeats() -> None:
    short, long = solve_logits((0.7, 0.6), 0.4, 4), solve_logits((0.7,) + (0.6,) * (MAX_K - 1), 0.4, 4)
    np.testing.assert_array_equal(short, long)


def test_a_hazard_of_zero_ends_the_chain() -> None:
    logits = solve_logits((0.6, 0.0), 0.4, 4)
    assert np.all(np.isneginf(logits[1:]))
    assert acceptance_length(logits, 0.4, 4) == pytest.approx(1.6)


def test_k_beyond_the_model_is_refused() -> None:
    with pytest.raises(InputError, match=f"K is {MAX_K + 1}"):
        population_acceptance(np.zeros(MAX_K), 0.1, MAX_K + 1)


def test_simulated_requests_meet_the_population_figures() -> None:
    profile = domain("chat")
    logits = hazard_logits(profile)[None, :]
    steps = _serve(KEY, 4_000, 300, 5, logits, profile.latent_sd)[:, 1]
    wanted = population_acceptance(logits[0], profile.latent_sd, 5)
    got = [(steps > i).mean() for i in range(5)]
    assert got == pytest.approx(wanted, abs=0.006)
    assert 1 + steps.mean() == pytest.approx(acceptance_length(logits[0], profile.latent_sd, 5), abs=0.02)


@pytest.mark.parametrize("name", ["chat", "math", "code-edit", "summarisation"])
def test_steps_of_one_request_correlate_as_published(name: str) -> None:
    """Published: lag-1 autocorrelation of accepted counts 0.03 to 0.16."""
    profile = domain(name)
    rows = _serve(KEY, 3_000, 256, 7, hazard_logits(profile)[None, :], profile.latent_sd)
    same = rows[1:, 0] == rows[:-1, 0]
    assert 0.015 < np.corrcoef(rows[1:, 1][same], rows[:-1, 1][same])[0, 1] < 0.165


# --- the shipped profiles against what is published ---


def test_anchored_domains_meet_their_anchor() -> None:
    anchored = [p for p in load_domains().values() if p.anchor is not None]
    assert len(anchored) >= 9
    for profile in anchored:
        k, length = profile.anchor
        assert acceptance_length(hazard_logits(profile), profile.latent_sd, k) == pytest.approx(
            length, abs=0.005
        )


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published acceptance table is not here")
@pytest.mark.parametrize(
    ("name", "traffic"),
    [
        ("chat", "chat(ShareGPT)"),
        ("math", "math(GSM8K)"),
        ("code-edit", "code-edit(InstructCoder)"),
        ("summarisation", "summarisation(CNN/DM)"),
    ],
)
def test_fitted_domains_reproduce_the_published_table(name: str, traffic: str) -> None:
    profile = domain(name)
    logits = hazard_logits(profile)
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = [
            r for r in csv.DictReader(file) if r["domain"] == traffic and r["drafter"].startswith("EAGLE-3")
        ]
    value = {(int(r["k"]), r["position_or_mean"]): float(r["value"]) for r in rows}
    for k in (1, 3, 5, 7):
        model = population_acceptance(logits, profile.latent_sd, k)
        assert model == pytest.approx([value[k, f"pos{i + 1}"] for i in range(k)], abs=0.036)
        assert 1 + sum(model) == pytest.approx(value[k, "mean"], rel=0.035)
