"""The real traces, where the shared data folder is present."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from workloads.traces import detect_format, read_trace

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "traces").is_dir(), reason="the shared data folder is not here")

TRACES = [
    # file, format, rows, mean rate, median prompt, median output (all from the folder's README)
    ("traces/azure2023_code.csv.gz", "azure", 7148, 3.12, 1460, 13),
    ("traces/azure2023_conv.csv.gz", "azure", 13828, 5.92, 1016, 115),
    ("traces/mooncake_conversation.jsonl.gz", "mooncake", 7689, 3.26, 7284, 356),
    ("traces/mooncake_synthetic.jsonl.gz", "mooncake", 2600, 3.82, 5823, 135),
    ("serving_runs/RTX4090_Llama-3.1-8B_requests.jsonl", "measured", 300, 10.28, 732, 632),
    ("serving_runs/RTXPRO6000_Llama-3.1-8B_requests.jsonl", "measured", 300, 10.27, 732, 632),
    ("serving_runs/RTXPRO6000_Qwen3-30B-A3B-Instruct-2507_requests.jsonl", "measured", 300, 10.27, 728, 638),
]


@pytest.mark.parametrize(("file", "form", "rows", "rate", "prompt", "output"), TRACES)
def test_a_real_trace_is_read_whole(file, form, rows, rate, prompt, output):
    stream = read_trace(DATA / file)
    requests = list(stream)
    arrivals = np.array([r.arrival for r in requests])
    assert detect_format(DATA / file) == form
    assert len(requests) == stream.report.rows == rows
    assert (np.diff(arrivals) >= 0).all()
    assert rows / arrivals[-1] == pytest.approx(rate, rel=0.005)
    assert np.median([r.prompt_tokens for r in requests]) == pytest.approx(prompt, abs=1)
    assert np.median([r.output_tokens for r in requests]) == pytest.approx(output, abs=1)


def test_the_conversation_traces_ticks_are_found():
    stream = read_trace(DATA / "traces/mooncake_conversation.jsonl.gz")
    arrivals = np.array([r.arrival for r in stream])
    assert stream.report.tick == pytest.approx(3.0, abs=0.002)
    assert len(np.unique(arrivals)) == len(arrivals)


def test_servegen_tables_yield_their_clients_rates():
    stream = read_trace(DATA / "traces/servegen_deepseek-r1_rates.csv.gz", scale=0.05)
    requests = list(stream)
    # 14.62 requests a second over 64,800 s on average
    assert len(requests) / 64800 == pytest.approx(14.62 * 0.05, rel=0.05)
    # weighted by requests, so close to, not equal to, the table's mean over windows
    assert np.mean([r.output_tokens for r in requests]) == pytest.approx(1828, rel=0.1)


def test_a_large_fleet_starts_quickly_and_borrows_lengths():
    stream = read_trace(DATA / "traces/servegen_m-small_rates.csv.gz", scale=0.01)
    requests = list(islice(stream, 2000))
    assert len(requests) == 2000
    assert stream.report.borrowed > 0
