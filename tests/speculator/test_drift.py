"""The drift detector: few false alarms, short delays, one alarm per shift."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

import numpy as np
import pytest

from harness.contract import UNKNOWN
from harness.errors import InputError, MissingPart
from harness.speculator.drift import DriftDetector, DriftSettings

needs_river = pytest.mark.skipif(
    importlib.util.find_spec("river") is None, reason="the rl extra is not installed"
)
SEEDS = range(8)
Draw = Callable[[np.random.Generator, float], float]


def coin(rng: np.random.Generator, rate: float) -> float:
    """The hardest stream: one step per request."""
    return float(rng.random() < rate)


def request(rng: np.random.Generator, rate: float) -> float:
    """Sixty steps, and requests that differ from each other."""
    return rng.binomial(60, rng.beta(10 * rate, 10 * (1 - rate))) / 60


def alarms(
    d: DriftDetector, n: int, acceptance: Callable[[], float | None], domain: Callable[[], str]
) -> list[int]:
    return [i for i in range(n) if d.update(acceptance(), domain())]


def unlabelled() -> str:
    return UNKNOWN


@needs_river
@pytest.mark.parametrize("draw", [coin, request])
@pytest.mark.parametrize("labels", [0, 2, 6])
def test_stationary_traffic_raises_hardly_an_alarm(draw: Draw, labels: int) -> None:
    total = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        domain = (lambda rng=rng: f"d{rng.integers(labels)}") if labels else unlabelled
        total += len(alarms(DriftDetector(), 1500, lambda rng=rng: draw(rng, 0.7), domain))
    assert total <= 1, "of 12,000 requests"


@needs_river
@pytest.mark.parametrize(("draw", "bound"), [(coin, 110), (request, 50)])
def test_a_drop_is_found_soon_and_told_once(draw: Draw, bound: int) -> None:
    for seed in SEEDS:
        rng, d = np.random.default_rng(seed), DriftDetector()
        assert not alarms(d, 600, lambda rng=rng: draw(rng, 0.8), unlabelled)
        found = alarms(d, 600, lambda rng=rng: draw(rng, 0.4), unlabelled)
        assert len(found) == 1
        assert found[0] < bound
        assert d.last_cause == "acceptance"


@needs_river
def test_a_rise_is_no_alarm_and_a_fall_back_is() -> None:
    rng, d = np.random.default_rng(0), DriftDetector()
    assert not alarms(d, 500, lambda: request(rng, 0.4), unlabelled)
    assert not alarms(d, 500, lambda: request(rng, 0.8), unlabelled)
    assert d.last_cause == ""
    assert alarms(d, 100, lambda: request(rng, 0.4), unlabelled)


@needs_river
def test_a_new_mix_is_found_although_acceptance_stays() -> None:
    for seed in SEEDS:
        rng, d = np.random.default_rng(seed), DriftDetector()
        assert not alarms(d, 600, lambda: 0.7, lambda rng=rng: "ab"[rng.integers(2)])
        found = alarms(d, 1500, lambda: 0.7, lambda rng=rng: "cd"[rng.integers(2)])
        assert len(found) == 1, "and the rest of the shift is not a second one"
        assert found[0] < 100
        assert d.last_cause == "mix"


@needs_river
def test_labels_speak_while_nothing_is_drafted() -> None:
    d = DriftDetector()
    assert not alarms(d, 200, lambda: None, lambda: "old")
    assert len(alarms(d, 60, lambda: None, lambda: "new")) == 1
    assert d.last_cause == "mix"


@needs_river
def test_requests_without_a_label_are_no_domain() -> None:
    rng, d = np.random.default_rng(0), DriftDetector()
    assert not alarms(d, 600, lambda: 0.7, lambda: "ab"[rng.integers(2)])
    assert not alarms(d, 600, lambda: 0.7, unlabelled)
    assert not alarms(d, 600, lambda: 0.7, lambda: "ab"[rng.integers(2)])


@needs_river
def test_a_cooldown_holds_its_number_of_requests() -> None:
    d = DriftDetector(DriftSettings(cooldown=300, fast=8, slow=64))
    names = iter([*["a"] * 100, *["b"] * 250, *["c"] * 1000])
    found = alarms(d, 1350, lambda: 0.5, lambda: next(names))
    assert len(found) == 1, "c came within the cooldown of b"
    d = DriftDetector(DriftSettings(cooldown=100, fast=8, slow=64))
    names = iter([*["a"] * 100, *["b"] * 150, *["c"] * 1000])
    found = alarms(d, 1250, lambda: 0.5, lambda: next(names))
    assert [100 <= found[0] < 110, 250 <= found[1] < 260, len(found)] == [True, True, 2]


@needs_river
def test_without_a_cooldown_one_shift_may_be_told_more_than_once_but_ends() -> None:
    rng, d = np.random.default_rng(0), DriftDetector(DriftSettings(cooldown=0))
    alarms(d, 500, lambda: request(rng, 0.8), unlabelled)
    found = alarms(d, 1000, lambda: request(rng, 0.4), unlabelled)
    assert found
    assert found[-1] < 200


@needs_river
def test_made_up_labels_do_not_pile_up() -> None:
    d = DriftDetector(DriftSettings(fast=4, slow=16))
    names = iter(range(3000))
    alarms(d, 3000, lambda: 0.5, lambda: f"d{next(names)}")
    assert len(d._slow.shares()) < 300


def test_without_river_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    monkeypatch.setitem(sys.modules, "river.drift", None)
    with pytest.raises(MissingPart, match=r"python3 -m pip install 'specdrift\[learn\]'"):
        DriftDetector()


@needs_river
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_an_acceptance_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"0\.\.1"):
        DriftDetector().update(value)


@pytest.mark.parametrize(
    "wrong", [{"delta": 0.0}, {"mix_threshold": 1.0}, {"fast": 600}, {"fast": 0}, {"cooldown": -1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        DriftSettings(**wrong)  # type: ignore[arg-type]
