from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.latency import decode_shape, load, sanity
from harness.latency.shape import StepShape


def test_published_fit_is_its_formula():
    model = load("h100-llama3-8b")
    tokens, kv = 32 * 4, 32 * 725
    expected = 5.886 + 0.0210 * tokens + 3.93e-5 * kv + 1.207
    assert model.predict(decode_shape(32, 3, 725)) * 1e3 == pytest.approx(expected + 2.135)
    alone = 5.886 + 0.0210 * 32 + 3.93e-5 * kv + 1.207
    assert model.predict(decode_shape(32, 0, 725, drafter_loaded=False)) * 1e3 == pytest.approx(alone)


def test_an_idle_drafter_costs_less_than_drafting_and_more_than_none():
    model = load("h100-llama3-8b")
    none, idle, one = (
        model.predict(decode_shape(8, k, 725, drafter_loaded=loaded))
        for k, loaded in ((0, False), (0, True), (1, True))
    )
    assert none < idle < one


def test_published_prompt_reads_its_kv():
    model = load("h100-llama3-8b")
    shape = StepShape(prefill_seqs=1, prefill_tokens=100, prefill_kv=900, prefill_pairs=95050, sampled_rows=1)
    assert model.predict(shape) * 1e3 == pytest.approx(5.886 + 2.10 + 3.93e-5 * 1000 + 1.207)


@pytest.mark.parametrize("row", sanity.table(), ids=lambda r: f"{r.drafter}-{r.k}-{r.batch}")
def test_published_speedups_come_back(row):
    assert abs(row.error) < 0.01


def test_break_even_of_the_drifted_drafter():
    low, high = sanity.BREAK_EVEN
    assert low <= sanity.break_even() <= high


def test_the_draft_cost_does_not_grow_with_k():
    """What the published speedups imply at K = 7 is what they imply at K = 3 (batch 512 is rounding)."""
    three, seven = (sanity.implied_draft_ms(k)[:3] for k in (3, 7))
    assert abs(sum(three) - sum(seven)) / 3 < 0.06


def test_sanity_table_prints(capsys):
    sanity.main()
    assert "break-even" in capsys.readouterr().out


def test_k_beyond_the_fit_is_refused():
    with pytest.raises(InputError, match=r"K = 8 exceeds the largest K .* 7"):
        load("h100-llama3-8b").predict(decode_shape(1, 8, 100))
