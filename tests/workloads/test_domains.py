"""Domain profiles: the shipped file and the strict reader."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError, MissingPart, UnknownName
from workloads.domains import DomainProfile, LengthLaw, domain, load_domains

GENERAL = (
    "chat", "math", "code", "code-edit", "summarisation",
    "translation", "rag", "sql", "multilingual", "roleplay",
)  # fmt: skip
AURORA = ("gsm8k", "spider-sql", "codesearchnet", "finance-alpaca")
SEGMENTS = ("aurora-1", "aurora-2", "aurora-3", "aurora-4")
FIELDS = ("prompt", "output", "hazards", "latent_sd", "ceiling", "transfer")

GOOD = """
[base]
prompt = { median = 100, p95 = 300 }
output = { median = 50, p95 = 90, hi = 200 }
hazards = [0.7, 0.6]
latent_sd = 0.4
[base.basis]
prompt = "assumed: a test"
"""


def _load(tmp_path: Path, text: str) -> dict[str, DomainProfile]:
    file = tmp_path / "domains.toml"
    file.write_text(text)
    return load_domains(file)


def test_ships_the_named_domains() -> None:
    assert {*GENERAL, *AURORA, *SEGMENTS} <= set(load_domains())


@pytest.mark.parametrize("name", sorted(load_domains()))
def test_every_shipped_number_says_where_it_comes_from(name: str) -> None:
    assert set(FIELDS) <= set(domain(name).basis)


def test_like_takes_what_is_not_stated() -> None:
    sql, segment = domain("sql"), domain("aurora-2")
    assert sql.hazards == segment.hazards
    assert sql.ceiling == segment.ceiling
    assert sql.prompt != segment.prompt
    assert sql.basis["prompt"] != segment.basis["prompt"]
    assert sql.basis["hazards"] == segment.basis["hazards"]


def test_unknown_domain_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'summarisation'"):
        domain("summarization")


@given(st.floats(1, 5_000), st.floats(1, 8), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_lengths_stay_in_their_bounds(median: float, ratio: float, seed: int) -> None:
    law = LengthLaw(median, median * ratio, lo=1, hi=50_000)
    lengths = law.sample(np.random.default_rng(seed), 200)
    assert lengths.dtype == np.int64
    assert lengths.min() >= law.lo
    assert lengths.max() <= law.hi


def test_lengths_have_their_median_and_95th_percentile() -> None:
    law = LengthLaw(400, 1_500)
    lengths = law.sample(np.random.default_rng(1), 40_000)
    assert np.median(lengths) == pytest.approx(400, rel=0.03)
    assert np.percentile(lengths, 95) == pytest.approx(1_500, rel=0.04)


def test_equal_median_and_p95_is_a_constant_length() -> None:
    assert set(LengthLaw(64, 64).sample(np.random.default_rng(0), 20).tolist()) == {64}


@pytest.mark.parametrize(
    "bounds",
    [(100, 50), (float("nan"), 10), (0.5, 10), (100, float("inf"))],
    ids=["order", "nan", "small", "inf"],
)
def test_bad_lengths_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="must hold"):
        LengthLaw(*bounds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hazards": ()}, "there must be 1 to 16"),
        ({"hazards": (0.5, 1.0)}, "each must lie in"),
        ({"hazards": (float("nan"),)}, "each must lie in"),
        ({"latent_sd": -0.1}, "chat': latent_sd is"),
        ({"measured_k": 0}, "chat': measured_k is"),
        ({"ceiling": 0.9}, "chat': ceiling is"),
        ({"transfer": 1.1}, "chat': transfer is"),
        ({"anchor": (0, 2.0)}, "chat': anchor is"),
        ({"anchor": (3, 4.5)}, "chat': anchor is"),
        ({"basis": {"prompt": "guessed: somewhere"}}, "chat': basis is"),
    ],
)
def test_bad_profiles_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(domain("chat"), **change)


def test_reads_a_file_of_your_own(tmp_path: Path) -> None:
    found = _load(tmp_path, GOOD + '[mine]\nlike = "base"\nhazards = [0.9]\nanchor = [3, 3.4]\n')
    assert found["base"].output == LengthLaw(50, 90, hi=200)
    assert found["mine"].prompt == found["base"].prompt
    assert found["mine"].hazards == (0.9,)
    assert found["mine"].anchor == (3, 3.4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("latent_sd", "latent_sigma"), "did you mean 'latent_sd'"),
        (GOOD.replace("latent_sd = 0.4", ""), "lacks latent_sd; it needs"),
        (GOOD.replace("hazards = [0.7, 0.6]", "hazards = 0.7"), "not well formed"),
        (GOOD.replace("[0.7, 0.6]", '["high"]'), "not well formed"),
        (GOOD.replace("p95 = 300", "p59 = 300"), "not well formed"),
        (GOOD + '[mine]\nlike = "bass"\n', "did you mean 'base'"),
        (GOOD + '[a]\nlike = "base"\n[b]\nlike = "a"\n', "itself like another"),
        ("stray = 3\n" + GOOD, "where a table"),
        ("[base\n", "is not TOML"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _load(tmp_path, text)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match="cannot read domains"):
        load_domains(tmp_path / "none.toml")
