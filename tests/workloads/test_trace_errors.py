"""Each fault of a trace gives one sentence with file and line."""

import gzip
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from workloads.traces import FORMATS, read_trace
from workloads.traces.stream import REORDER_ROWS

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = "2023-11-16 18:15:46.6805900,374,44\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
JSON = '{"arrival_time": 1, "prompt_tokens": 2, "output_tokens": 3}\n'

BAD = [
    ("t.csv", "", "is empty"),
    ("t.csv", AZURE, "line 1: the trace has no request"),
    ("t.csv", BURST + "1,m,4,0,4,x\n", "line 2: the trace has no request (1 failures)"),
    (
        "t.csv",
        "TIMESTAMP,ContextToken,GeneratedTokens\n" + GOOD,
        "nearest is azure, which lacks ContextTokens",
    ),
    (
        "t.csv",
        AZURE + GOOD + "yesterday,374,44\n",
        "line 3: TIMESTAMP is 'yesterday'; it must be a time such as",
    ),
    (
        "t.csv",
        AZURE + "2023-11-16 18:15:46.6805900,374,nan\n",
        "line 2: GeneratedTokens is nan; it must be a whole",
    ),
    (
        "t.csv",
        AZURE + "2023-11-16 18:15:46.6805900,3.5,4\n",
        "line 2: ContextTokens is 3.5; it must be a whole",
    ),
    ("t.csv", AZURE + "2023-11-16 18:15:46.6805900,,4\n", "line 2: ContextTokens is ''; it must be a whole"),
    (
        "t.csv",
        AZURE + "2023-11-16 18:15:46.6805900,-3,4\n",
        "line 2: ContextTokens is -3; it must lie in 0..",
    ),
    ("t.csv", AZURE + "2023-11-16 18:15:46.6805900,3\n", "line 2: 2 cells where the header has 3"),
    ("t.csv", BURST + "-1,m,4,3,7,x\n", "line 2: Timestamp is -1; it must be finite and not negative"),
    ("t.csv", BURST + "inf,m,4,3,7,x\n", "line 2: Timestamp is inf; it must be finite and not negative"),
    ("t.csv", BURST + "1,m,4,3,7,x\n" * 2 + "nan,m,4,3,7,x\n", "line 4: Timestamp is nan; it must be finite"),
    ("t.jsonl", JSON + '{"arrival_time": 1, "prompt_tok\n', "line 2: this is not JSON"),
    ("t.jsonl", JSON + "[1, 2]\n", "line 2: a list where a JSON object must stand"),
    ("t.jsonl", JSON + '{"arrival_time": 1, "prompt_tokens": 2}\n', "line 2: key 'output_tokens' is missing"),
    ("t.jsonl", JSON.replace("2", "null"), "line 1: prompt_tokens is None; it must be a whole"),
    ("t.jsonl", JSON.replace("2", "true"), "line 1: prompt_tokens is True; it must be a whole"),
    (
        "t.jsonl",
        JSON.replace(": 1", ": -0.5"),
        "line 1: arrival_time is -0.5; it must be finite and not negative",
    ),
    ("t.jsonl", JSON.replace("}", ', "domain": 7}'), "line 1: domain is 7; it must be a name"),
    (
        "t.jsonl",
        '{"when": 1, "prompt_tokens": 2, "output_tokens": 3}\n',
        "nearest is jsonl, which lacks arrival_time",
    ),
    (
        "t.jsonl",
        '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1.5]}',
        "line 1: hash_ids is [1.5]; it must be a list of whole numbers",
    ),
    (
        "t.jsonl",
        "".join(JSON.replace(": 1", f": {t}") for t in [*range(5, REORDER_ROWS + 9), 0]),
        f"line {REORDER_ROWS + 5}: time runs back to 0.000000 s after",
    ),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD)
@pytest.mark.parametrize("packed", [False, True])
def test_a_fault_is_named_with_file_and_line(tmp_path, name, text, message, packed):
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(InputError) as caught:
        list(read_trace(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error_at_once(tmp_path):
    with pytest.raises(InputError, match=r"cannot read trace .*nothing\.csv: No such file"):
        read_trace(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="is a folder; name a file"):
        read_trace(tmp_path)


def test_a_truncated_gzip_file_is_named_with_the_line_it_reached(tmp_path):
    path = tmp_path / "t.csv.gz"
    whole = gzip.compress((BURST + "".join(f"{i},m,{i % 977 + 1},3,7,x\n" for i in range(30_000))).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"line \d{4,}: the gzip file is damaged or cut short"):
        list(read_trace(path))
    path.write_bytes(b"TIMESTAMP is not gzip")
    with pytest.raises(InputError, match="line 1: the gzip file is damaged"):
        read_trace(path)


def test_text_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(AZURE.encode() + b"\xff\xfe\n")
    with pytest.raises(InputError, match="this is not UTF-8 text"):
        list(read_trace(path))


def test_a_wrong_column_of_a_given_format_names_the_nearest(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("TIMESTAMP,ContextToken,GeneratedTokens\n" + GOOD)
    with pytest.raises(
        InputError, match=r"line 1: column 'ContextTokens' is missing; .* nearest is 'ContextToken'"
    ):
        list(read_trace(path, "azure"))


def test_options_that_a_format_lacks_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(AZURE + GOOD)
    with pytest.raises(InputError, match=r"tick is 3\.0, but a trace of format 'azure' has no ticks"):
        read_trace(path, tick=3.0)
    with pytest.raises(InputError, match="only ServeGen tables have rates to scale"):
        read_trace(path, scale=0.5)
    with pytest.raises(InputError, match="unknown trace format 'azur'; did you mean 'azure'"):
        read_trace(path, "azur")


cells = st.one_of(
    st.text(max_size=8), st.integers(), st.floats(), st.none(), st.lists(st.integers(), max_size=2)
)
names = st.sampled_from(
    sorted({n for form in FORMATS.values() for group in form.needs for n in group} | {"domain"})
)
json_lines = st.lists(st.dictionaries(names, cells), min_size=1, max_size=4).map(
    lambda rows: "\n".join(json.dumps(row) for row in rows)
)
csv_lines = st.lists(st.lists(cells, min_size=3, max_size=3), max_size=4).map(
    lambda rows: AZURE + "\n".join(",".join(map(str, row)) for row in rows)
)
damaged = st.one_of(
    st.binary(max_size=80), json_lines.map(str.encode), csv_lines.map(lambda t: t.encode("utf-8", "ignore"))
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged, st.sampled_from([None, *sorted(FORMATS)]))
def test_whatever_a_file_holds_it_is_read_or_refused_with_its_name(tmp_path, data, form):
    path = tmp_path / "x_rates.csv"
    path.write_bytes(data)
    (tmp_path / "x_lengths.jsonl").write_bytes(data)
    try:
        outcome = list(read_trace(path, form))
    except InputError as error:
        outcome = re.findall("x_(?:rates|lengths)", str(error))
    assert outcome
