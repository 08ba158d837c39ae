"""Trace formats: what is read, what survives a round trip, what is reported."""

import gzip
import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.contract import Request
from harness.errors import InputError
from workloads.traces import count_requests, detect_format, read_trace, write_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def save(tmp_path, name, text):
    path = tmp_path / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_azure_keeps_all_seven_decimals_and_starts_at_0(tmp_path, name):
    text = AZURE + "2023-11-16 23:59:59.9999999,374,44\n2023-11-17 00:00:00.0000002,396.0,109\n"
    first, second = read_trace(save(tmp_path, name, text))
    assert first == Request(0, 0.0, 374, 44)
    assert (second.prompt_tokens, second.output_tokens) == (396, 109)
    assert second.arrival == pytest.approx(3e-7, rel=1e-3)


def test_azure_times_with_a_zone_and_without_decimals(tmp_path):
    text = AZURE + "2024-05-10 00:00:00+00:00,1,2\n2024-05-10 00:00:01.5+00:00,3,4\n"
    assert [r.arrival for r in read_trace(save(tmp_path, "a.csv", text))] == [0.0, 1.5]


def mooncake(*rows):
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)


def test_mooncake_spreads_arrivals_within_its_ticks(tmp_path):
    rows = [(3000 * (i // 50), 10 + i, 5, [i, 7]) for i in range(200)]
    path = save(tmp_path, "m.jsonl", mooncake(*rows))
    stream = read_trace(path, seed=3)
    requests = list(stream)
    times = np.array([r.arrival for r in requests])
    assert (np.diff(times) > 0).all()
    assert [r.prompt_tokens for r in requests] == [10 + i for i in range(200)]
    assert requests[4].prefix_hashes == (4, 7)
    assert all(3 * (i // 50) <= t < 3 * (i // 50) + 3 for i, t in enumerate(times))
    assert np.mod(times, 3).mean() == pytest.approx(1.5, abs=0.25)
    assert stream.report.tick == 3.0
    assert [r.arrival for r in read_trace(path, seed=3)] == list(times)
    assert [r.arrival for r in read_trace(path, seed=4)] != list(times)
    assert [r.arrival for r in read_trace(path, tick=0)] == [r[0] / 1000 for r in rows]


def test_fine_times_are_left_alone(tmp_path):
    stream = read_trace(save(tmp_path, "m.jsonl", mooncake((0, 1, 1, []), (0, 1, 1, []), (40, 1, 1, []))))
    assert [r.arrival for r in stream] == [0.0, 0.0, 0.04]
    assert stream.report.tick == 0


def test_ticks_never_pass_the_next_time(tmp_path):
    rows = [(0, 1, 1, [])] * 40 + [(2999, 1, 1, [])] * 40 + [(3100, 1, 1, [])]
    times = [r.arrival for r in read_trace(save(tmp_path, "m.jsonl", mooncake(*rows)), tick=3.0)]
    assert times == sorted(times)
    assert max(times[40:80]) < 3.1


def test_burstgpt_failures_are_counted_not_dropped_in_silence(tmp_path):
    text = (
        BURST
        + "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,30,0,30,API log\n118.0,ChatGPT,9,4,13,API log\n"
    )
    stream = read_trace(save(tmp_path, "b.csv", text))
    assert [(r.request_id, r.arrival, r.prompt_tokens, r.output_tokens) for r in stream] == [
        (0, 5.0, 472, 18),
        (1, 118.0, 9, 4),
    ]
    assert (stream.report.rows, stream.report.requests, stream.report.failures) == (3, 2, 1)
    assert "1 failures" in stream.report.summary()


def test_empty_requests_elsewhere_count_as_one_token_and_are_reported(tmp_path):
    stream = read_trace(save(tmp_path, "m.jsonl", mooncake((0, 0, 0, []), (10, 5, 0, []))))
    assert [(r.prompt_tokens, r.output_tokens) for r in stream] == [(1, 1), (5, 1)]
    assert stream.report.clamped == 2


def test_rows_slightly_out_of_order_are_put_in_order_and_reported(tmp_path):
    lines = [
        f'{{"arrival_time": {t}, "prompt_tokens": 1, "output_tokens": 1}}\n' for t in (1.0, 3.0, 2.0, 4.0)
    ]
    stream = read_trace(save(tmp_path, "r.jsonl", "".join(lines)))
    assert [(r.request_id, r.arrival) for r in stream] == [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]
    assert stream.report.reordered == 1


def test_a_measured_run_is_recognised_and_begins_at_0(tmp_path):
    row = {"request_id": "bench-0", "input_toks": 9, "output_toks": 3, "arrival_time": 1777142838.5}
    later = row | {"arrival_time": 1777142839.25}
    path = save(tmp_path, "run.jsonl", json.dumps(later) + "\n" + json.dumps(row) + "\n")
    assert detect_format(path) == "measured"
    assert [r.arrival for r in read_trace(path)] == [0.0, 0.75]


@pytest.mark.parametrize(
    "keys",
    [
        ("arrival_time", "prompt_tokens", "output_tokens"),
        ("timestamp", "input_tokens", "output_tokens"),
        ("arrival", "prompt_len", "output_len"),
    ],
)
def test_other_tools_names_are_understood(tmp_path, keys):
    path = save(tmp_path, "x.jsonl", json.dumps(dict(zip(keys, (1.5, 7, 8), strict=True))))
    assert detect_format(path) == "jsonl"
    assert list(read_trace(path)) == [Request(0, 1.5, 7, 8)]


labels = st.sampled_from(["unknown", "chat", "größe"])
requests = st.lists(
    st.tuples(
        st.floats(0, 1e5),
        st.integers(1, 10**6),
        st.integers(1, 10**6),
        labels,
        labels,
        st.lists(st.integers(0, 10**6), max_size=3),
    ),
    min_size=1,
    max_size=30,
).map(lambda rows: [Request(i, *row[:5], tuple(row[5])) for i, row in enumerate(sorted(rows))])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, st.sampled_from(["", ".gz"]))
def test_jsonl_keeps_everything(tmp_path, sent, suffix):
    path = tmp_path / f"r.jsonl{suffix}"
    write_trace(path, iter(sent))
    assert list(read_trace(path)) == sent
    assert count_requests(path) == len(sent)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, st.sampled_from([("azure", 1e-7), ("burstgpt", 1e-6), ("mooncake", 1e-3)]), st.booleans())
def test_the_other_formats_keep_times_and_lengths(tmp_path, sent, form, packed):
    name, resolution = form
    path = tmp_path / f"t{'.gz' if packed else ''}"
    write_trace(path, iter(sent), name)
    assert detect_format(path) == name
    options = {} if name == "azure" else {"tick": 0.0}
    got = list(read_trace(path, **options))
    origin = sent[0].arrival if name == "azure" else 0.0
    assert [r.arrival for r in got] == pytest.approx([r.arrival - origin for r in sent], abs=2 * resolution)
    # rounding may make times equal, and then the file's order stays
    assert [(r.prompt_tokens, r.output_tokens) for r in got] == [
        (r.prompt_tokens, r.output_tokens) for r in sent
    ]
    if name == "mooncake":
        assert [r.prefix_hashes for r in got] == [r.prefix_hashes for r in sent]


def test_a_failed_write_leaves_no_file(tmp_path):
    def broken():
        yield Request(0, 0.0, 1, 1)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_trace(tmp_path / "t.jsonl.gz", broken())
    assert list(tmp_path.iterdir()) == []


def test_gzip_bytes_tell_neither_time_nor_name(tmp_path, monkeypatch):
    for name, now in (("a.jsonl.gz", 1e9), ("b.jsonl.gz", 2e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        write_trace(tmp_path / name, [Request(0, 1.0, 2, 3)])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_measured_run_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"'measured' cannot be written; valid: azure"):
        write_trace(tmp_path / "x", [], "measured")


def test_reading_is_lazy(tmp_path):
    path = save(tmp_path, "b.csv", BURST + "".join(f"{i},m,1,1,2,x\n" for i in range(20_000)) + "broken\n")
    assert len(list(islice(read_trace(path), 10_000))) == 10_000
