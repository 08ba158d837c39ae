"""Mixtures of domains over progress."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.mixture import Shift, constant, stages

A, B, C = {"a": 1.0}, {"b": 1.0}, {"c": 3.0, "a": 1.0}


def share(mixture, progress):
    return dict(zip(mixture.names, mixture.probabilities(np.array([progress]))[0], strict=True))


def test_constant_shares_are_normalised():
    assert share(constant({"a": 3, "b": 1}), 0.7) == {"a": 0.75, "b": 0.25}
    assert constant({"a": 3, "b": 1}).shifts() == ()


def test_stages_jump_at_their_boundary():
    mixture = stages([(1.0, A), (3.0, B)])
    assert share(mixture, 0.2499) == {"a": 1.0, "b": 0.0}
    assert share(mixture, 0.25) == {"a": 0.0, "b": 1.0}
    assert share(mixture, 1.0) == {"a": 0.0, "b": 1.0}
    assert mixture.shifts() == (Shift(0.25, "a", "b"),)


def test_a_fade_is_linear_and_centred_on_the_boundary():
    mixture = stages([(1.0, A), (1.0, B)], fade=0.4)
    assert share(mixture, 0.3)["a"] == pytest.approx(1.0)
    assert share(mixture, 0.4)["a"] == pytest.approx(0.75)
    assert share(mixture, 0.5)["a"] == pytest.approx(0.5)
    assert share(mixture, 0.7)["a"] == pytest.approx(0.0)
    assert mixture.shifts()[0].at == pytest.approx(0.5)


def test_a_domain_that_comes_back_shifts_twice():
    mixture = stages([(1.0, A), (2.0, B), (1.0, A)])
    assert [(s.at, s.after) for s in mixture.shifts()] == [(0.25, "b"), (0.75, "a")]


def test_stages_without_a_change_of_the_likeliest_domain_do_not_shift():
    assert stages([(1.0, {"a": 3, "b": 1}), (1.0, {"a": 2, "b": 1})]).shifts() == ()


def test_choices_follow_the_shares():
    mixture = stages([(1.0, A), (1.0, C)], fade=0.2)
    rng = np.random.default_rng(0)
    chosen = mixture.choose(rng.random(40_000), np.full(40_000, 0.95))
    assert (chosen == mixture.names.index("c")).mean() == pytest.approx(0.75, abs=0.01)
    assert (mixture.choose(rng.random(1000), np.zeros(1000)) == mixture.names.index("a")).all()


weights = st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 10), min_size=1)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0.1, 5), weights), min_size=1, max_size=5), st.floats(0, 1))
def test_shares_are_a_distribution_everywhere(steps, progress):
    shares = stages(steps).probabilities(np.array([progress]))[0]
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1.0)
