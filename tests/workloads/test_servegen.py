"""ServeGen tables: requests drawn from them follow them, and tables fitted to requests give them back."""

from itertools import islice

import numpy as np
import pytest

from harness.contract import Request
from harness.errors import InputError
from workloads.traces import read_trace, write_trace

HEADER = "client,timestamp,rate,cv,pattern,param1,param2\n"
LENGTHS = '{{"client": {0}, "timestamp": {1}, "input_tokens": "{2}", "output_tokens": "{3}"}}\n'


def tables(tmp_path, rates, lengths):
    path = tmp_path / "fleet_rates.csv"
    path.write_text(HEADER + rates)
    (tmp_path / "fleet_lengths.jsonl").write_text(lengths)
    return path


@pytest.fixture
def fleet(tmp_path):
    # client 0: even, then silent; client 1: silent, then bursty; client 2 has no lengths of its own
    rates = "0,0,4,1,Gamma,1,0.25\n0,600,0,0,,0,0\n0,1200,0,0,,0,0\n"
    rates += "1,0,0,0,,0,0\n1,600,2,2,Gamma,0.25,2\n1,1200,0,0,,0,0\n"
    rates += "2,0,0,0,,0,0\n2,600,0,0,,0,0\n2,1200,3,1,Weibull,1,0.33\n"
    lengths = LENGTHS.format(0, 0, "{10: 0.5, 20: 0.5}", "{7: 1.0}")
    lengths += LENGTHS.format(1, 0, "{100: 0.25, 300: 0.75}", "{8: 1}")
    return tables(tmp_path, rates, lengths)


def test_each_client_follows_its_own_tables(fleet):
    stream = read_trace(fleet, seed=1)
    requests = list(stream)
    times = np.array([r.arrival for r in requests])
    assert (np.diff(times) >= 0).all()
    parts = [[r for r in requests if lo <= r.arrival < lo + 600] for lo in (0, 600, 1200)]
    assert [len(p) / 600 for p in parts] == pytest.approx([4, 2, 3], rel=0.12)
    assert {r.output_tokens for r in parts[0]} == {7}
    assert {r.output_tokens for r in parts[1]} == {8}
    long = np.mean([r.prompt_tokens == 300 for r in parts[1]])
    assert long == pytest.approx(0.75, abs=0.05)
    assert stream.report.borrowed == len(parts[2])
    gaps = np.diff([r.arrival for r in parts[1]])
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.2)


def test_the_rate_column_counts_not_the_fitted_mean(tmp_path):
    # ServeGen's Weibull fits often have another mean than the rate; this one alone would give 50 a second
    rates = "0,0,5,3,Weibull,0.5,0.01\n0,600,5,3,Weibull,0.5,0.01\n"
    requests = list(read_trace(tables(tmp_path, rates, LENGTHS.format(0, 0, "{1: 1}", "{1: 1}"))))
    assert len(requests) / 1200 == pytest.approx(5.0, rel=0.12)


def test_scale_multiplies_the_rates(fleet):
    full, tenth = (len(list(read_trace(fleet, scale=s))) for s in (1.0, 0.1))
    assert tenth / full == pytest.approx(0.1, rel=0.3)


def test_the_same_seed_gives_the_same_requests(fleet):
    assert list(read_trace(fleet, seed=5)) == list(read_trace(fleet, seed=5))
    assert list(read_trace(fleet, seed=5)) != list(read_trace(fleet, seed=6))


@pytest.mark.parametrize(
    ("rates", "lengths", "message"),
    [
        (
            "0,0,4,1,Zipf,1,1\n0,600,0,0,,0,0\n",
            LENGTHS.format(0, 0, "{1: 1}", "{1: 1}"),
            "line 2: pattern is 'Zipf'",
        ),
        (
            "0,0,4,1,Gamma,0,1\n0,600,0,0,,0,0\n",
            LENGTHS.format(0, 0, "{1: 1}", "{1: 1}"),
            "line 2: param1 is 0",
        ),
        ("0,0,-4,1,Gamma,1,1\n", LENGTHS.format(0, 0, "{1: 1}", "{1: 1}"), "line 2: rate is -4"),
        ("0,0,4,1,Gamma,1,1\n", LENGTHS.format(0, 0, "{1: 1}", "{1: 1}"), "1 windows; at least two"),
        (
            "0,0,4,1,Gamma,1,1\n0,600,4,1,Gamma,1,1\n",
            LENGTHS.format(0, 0, "{1}", "{1: 1}"),
            "is not a histogram",
        ),
        (
            "0,0,4,1,Gamma,1,1\n0,600,4,1,Gamma,1,1\n",
            LENGTHS.format(0, 0, "{1: -1}", "{1: 1}"),
            "negative or no",
        ),
        ("0,0,4,1,Gamma,1,1\n0,600,4,1,Gamma,1,1\n", "", "the length table is empty"),
        ("0,0,1,1,Gamma,1,1\n0,600,1,1,Gamma,1,1\n0,1300,1,1,Gamma,1,1\n", "", "1300 is not a whole number"),
    ],
)
def test_bad_tables_are_errors(tmp_path, rates, lengths, message):
    with pytest.raises(InputError, match="fleet_"):
        list(read_trace(tables(tmp_path, rates, lengths)))
    with pytest.raises(InputError, match=message):
        list(read_trace(tables(tmp_path, rates, lengths)))


def test_a_missing_length_table_is_named(fleet):
    fleet.with_name("fleet_lengths.jsonl").unlink()
    with pytest.raises(InputError, match=r"cannot read trace .*fleet_lengths\.jsonl"):
        list(read_trace(fleet))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fitted_tables_give_the_requests_laws_back(tmp_path, suffix):
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 1800, 9000))
    prompts = rng.choice([10, 20, 40], 9000, p=[0.5, 0.25, 0.25])
    sent = [
        Request(i, float(t), int(p), 5 + i % 2, tenant="ab"[int(b)])
        for i, (t, p, b) in enumerate(zip(times, prompts, rng.random(9000) < 0.3, strict=True))
    ]
    path = tmp_path / f"own_rates.csv{suffix}"
    write_trace(path, iter(sent), "servegen")
    got = list(read_trace(path))
    assert len(got) == pytest.approx(9000, rel=0.05)
    assert np.mean([r.prompt_tokens == 10 for r in got]) == pytest.approx(0.5, abs=0.03)
    assert {r.output_tokens for r in got} == {5, 6}
    gaps = np.diff([r.arrival for r in got])
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.1)


def test_evenly_spaced_arrivals_stay_even(tmp_path):
    sent = [Request(i, i * 1.0, 1, 1) for i in range(1800)]
    path = tmp_path / "own_rates.csv"
    write_trace(path, sent, "servegen")
    gaps = np.diff([r.arrival for r in islice(read_trace(path), 1000)])
    assert gaps.std() < 0.05


def test_the_rate_table_must_carry_its_name(tmp_path):
    with pytest.raises(InputError, match=r"must be named \.\.\._rates\.csv"):
        write_trace(tmp_path / "own.csv", [Request(0, 0.0, 1, 1)], "servegen")
