"""Arrival processes against their closed forms."""

from itertools import chain, islice, takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from workloads.arrivals import ClientWindow, Gaps, markov_modulated, renewal, superpose, weibull_shape
from workloads.rates import ConstantRate, PiecewiseRate, SinusoidalRate


def first(process, n):
    return np.fromiter(islice(chain.from_iterable(process), n), dtype=np.float64, count=n)


def until(process, end):
    chunks = takewhile(lambda c: c[0] <= end, (c for c in process if len(c)))
    times = np.concatenate([*chunks, np.empty(0)])
    return times[times <= end]


def rng(seed=1):
    return np.random.default_rng(seed)


def test_poisson_gaps_are_exponential():
    gaps = np.diff(first(renewal(rng(), 5.0), 20_000))
    assert stats.kstest(gaps, stats.expon(scale=0.2).cdf).pvalue > 0.01
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03


@pytest.mark.parametrize(("law", "cv"), [("gamma", 0.5), ("gamma", 3.0), ("weibull", 0.5), ("weibull", 2.0)])
def test_renewal_has_its_rate_cv_and_law(law, cv):
    gaps = np.diff(first(renewal(rng(2), 4.0, Gaps.of(law, cv)), 100_000))
    assert gaps.mean() == pytest.approx(0.25, rel=4 * cv / np.sqrt(len(gaps)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06)
    shape = Gaps.of(law, cv).shape
    frozen = stats.gamma(shape) if law == "gamma" else stats.weibull_min(shape)
    # on the draws: times far from 0 have rounded the smallest gaps away
    drawn = Gaps.of(law, cv).draw(rng(2), 5000) * frozen.mean()
    assert stats.kstest(drawn, frozen.cdf).pvalue > 0.01


@given(st.floats(0.05, 20))
def test_weibull_shape_inverts_the_cv(cv):
    law = stats.weibull_min(weibull_shape(cv))
    assert law.std() / law.mean() == pytest.approx(cv, rel=1e-6)


@pytest.mark.parametrize(
    "gaps", [Gaps(), Gaps.of("gamma", 4.0), Gaps.of("weibull", 3.0), Gaps.of("weibull", 0.3)]
)
def test_a_renewal_process_starts_in_its_steady_state(gaps):
    # E[N(T)] = rate * T exactly; a process that begins with an arrival at 0 would be off by (cv^2 - 1) / 2
    counts = [len(until(renewal(rng(seed), 2.0, gaps), 2.5)) for seed in range(3000)]
    assert np.mean(counts) == pytest.approx(5.0, abs=4 * np.std(counts) / np.sqrt(len(counts)))


def test_the_markov_modulated_process_has_the_known_mean_and_cv():
    # c^2 = 1 + 2 s1 s2 (l1 - l2)^2 / ((s1 + s2)^2 (l1 l2 + l1 s2 + l2 s1)), Fischer & Meier-Hellstern 1993
    l1, l2, s1, s2 = 2.0, 20.0, 1 / 4.0, 1 / 2.0
    square = 1 + 2 * s1 * s2 * (l1 - l2) ** 2 / ((s1 + s2) ** 2 * (l1 * l2 + l1 * s2 + l2 * s1))
    gaps = np.diff(first(markov_modulated(rng(3), [l1, l2], [1 / s1, 1 / s2]), 400_000))
    assert 1 / gaps.mean() == pytest.approx((l1 * 4 + l2 * 2) / 6, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(np.sqrt(square), rel=0.02)


def test_a_silent_state_is_silent():
    times = first(markov_modulated(rng(4), [0.0, 1000.0], [10.0, 10.0]), 100_000)
    # runs of arrivals about 1 ms apart, with exponential silences of mean 10 s between them
    silences = np.diff(times)[np.diff(times) > 0.1]
    assert silences.mean() == pytest.approx(10.0, rel=0.6)
    assert (np.diff(times) < 0.1).mean() > 0.999


def test_three_states_hold_in_proportion_to_their_dwell():
    times = until(markov_modulated(rng(5), [1.0, 4.0, 16.0], [3.0, 2.0, 1.0]), 20_000.0)
    assert len(times) / 20_000 == pytest.approx((3 + 8 + 16) / 6, rel=0.05)


CURVES = [
    ConstantRate(3.0),
    PiecewiseRate(np.array([10.0, 5.0]), np.array([2.0, 8.0]), np.array([2.0, 8.0]), repeat=True),
    PiecewiseRate(
        np.array([10.0, 5.0, 2.0]), np.array([0.0, 6.0, 0.0]), np.array([6.0, 0.0, 0.0]), repeat=True
    ),
    PiecewiseRate(np.array([4.0, 6.0]), np.array([0.0, 1.0]), np.array([0.0, 5.0])),
    SinusoidalRate(3.0, 1.0, 60.0),
    SinusoidalRate(3.0, 0.3, 7.0),
]


def integral(curve, time, pieces=200_001):
    grid = np.linspace(0.0, time, pieces)
    if isinstance(curve, SinusoidalRate):
        rate = curve.rate * (1 + curve.amplitude * np.sin(2 * np.pi * grid / curve.period))
    elif isinstance(curve, ConstantRate):
        rate = np.full_like(grid, curve.rate)
    else:
        ends = np.cumsum(curve.seconds)
        inner = np.mod(grid, ends[-1]) if curve.repeat else np.minimum(grid, ends[-1] * (1 - 1e-12))
        piece = np.searchsorted(ends, inner, side="right")
        part = (inner - (ends - curve.seconds)[piece]) / curve.seconds[piece]
        rate = curve.first[piece] * (1 - part) + curve.last[piece] * part
    return float(np.trapezoid(rate, grid))


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_inverts_its_integral(curve):
    operational = np.array([0.1, 1.0, 7.7, 29.9, 41.3, 100.0])
    for u, time in zip(operational, curve.inverse(operational), strict=True):
        assert integral(curve, time) == pytest.approx(u, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("curve", CURVES)
def test_times_never_run_back_nor_depend_on_the_reader(curve):
    times = first(renewal(rng(6), curve), 9000)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert (first(renewal(rng(6), curve), 9000) == times).all()
    assert (first(renewal(rng(6), curve), 100) == times[:100]).all()


def test_a_ramp_gathers_arrivals_where_the_rate_is():
    curve = PiecewiseRate(np.array([100.0]), np.array([0.0]), np.array([20.0]), repeat=True)
    times = until(renewal(rng(7), curve), 10_000.0)
    # density 2x on 0..1 within each lap
    assert stats.kstest(np.mod(times, 100.0)[:5000] / 100.0, lambda x: x**2).pvalue > 0.01


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 50), st.floats(0, 30), st.floats(0, 30)), min_size=1, max_size=6),
    st.integers(0, 10_000),
)
def test_any_piecewise_curve_gives_non_decreasing_finite_times(pieces, seed):
    seconds, low, high = (np.array(column) for column in zip(*pieces, strict=True))
    if (low + high).max() < 1e-3:
        return
    times = first(renewal(rng(seed), PiecewiseRate(seconds, low, high, repeat=True)), 500)
    assert np.isfinite(times).all()
    assert (np.diff(times) >= 0).all()


def clients(windows, count, seed=8, seconds=10.0):
    rngs = [np.random.default_rng([seed, i]) for i in range(count)]
    return list(superpose(rngs, iter(windows), seconds))


def test_clients_keep_their_rates_window_by_window():
    busy, idle = ClientWindow(20.0, Gaps.of("gamma", 2.0)), ClientWindow(2.0, Gaps.of("weibull", 1.5))
    found = clients([[busy, idle], [idle, busy]] * 200, 2)
    times, owners = (np.concatenate(parts) for parts in zip(*found, strict=True))
    first_half = np.mod(times, 20.0) < 10.0
    assert (np.diff(times) >= 0).all()
    for owner, rates in ((0, (20.0, 2.0)), (1, (2.0, 20.0))):
        for half, rate in ((first_half, rates[0]), (~first_half, rates[1])):
            assert ((owners == owner) & half).sum() / 2000.0 == pytest.approx(rate, rel=0.15)


def test_bursty_clients_have_the_right_mean_rate_even_in_short_windows():
    # a fresh renewal in each window would give (cv^2 - 1) / 2 = 12 extra arrivals on top of 1 in each
    law = ClientWindow(0.1, Gaps.of("gamma", 5.0))
    found = clients([[law] * 50] * 400, 50)
    assert sum(len(times) for times, _ in found) / (400 * 10 * 50) == pytest.approx(0.1, rel=0.12)


def test_a_silent_client_adds_nothing():
    found = clients([[ClientWindow(0.0), ClientWindow(3.0)]] * 50, 2)
    assert all((owners == 1).all() for _, owners in found)
