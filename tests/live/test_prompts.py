"""What live requests say: generated texts or a user's own, dealt the same way for a seed; arrivals of a trace."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("aiohttp")

from harness.contract import Request
from harness.errors import InputError
from harness.live import job as live_job
from harness.live.prompts import Generated, Own, check_covers, own_prompts, read_prompts
from harness.live.workload import Workload
from workloads import write_trace
from workloads.scenario import load_scenario, parse_scenario

SCENARIO = """
name = "two"
question = "?"
requests = 40
arrivals = { process = "poisson", rate = 2.0 }
mixture = { kind = "constant", domains = { gsm8k = 1, spider-sql = 1 } }
"""


class Letters:
    """A tokenizer of one token a letter, after a token of its own."""

    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + [ord(c) for c in text]


class Chatty(Letters):
    """Its template starts a chat, names roles, and takes nothing from a system."""

    chat_template = "..."

    def apply_chat_template(
        self, chat: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        if any(m["role"] == "system" for m in chat):
            raise RuntimeError("no system here")
        return "".join(f"{m['role']}:{m['content']};" for m in chat) + "assistant:" * add_generation_prompt


def chat(*said: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text} for text in said]


def prompts_file(folder: Path, *rows: object, name: str = "mine.jsonl") -> Path:
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def row(domain: str, prompt: str) -> dict[str, str]:
    return {"domain": domain, "prompt": prompt}


def requests_of(*domains: str) -> list[Request]:
    return [Request(i, float(i), 1, 1, domain, "t") for i, domain in enumerate(domains)]


# --- a file of prompts -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz"])
def test_a_file_is_read_by_domain(tmp_path, name):
    path = prompts_file(tmp_path, row("gsm8k", "one"), row("code", "def"), row("gsm8k", "two"), name=name)
    assert read_prompts(path) == {"gsm8k": ["one", "two"], "code": ["def"]}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ((["gsm8k", "one"],), "mine.jsonl:1 must be an object"),
        ((row("gsm8k", "one"), {"domain": "gsm8k"}), "mine.jsonl:2 must be an object"),
        ((row("gsm8k", ""),), "mine.jsonl:1 must be an object"),
        (({"domain": "gsm8k", "messages": []},), "mine.jsonl:1 must be an object"),
        (({"domain": "gsm8k", "messages": [{"role": "user"}]},), "texts 'role' and 'content'"),
        (({"domain": "gsm8k", "prompt": "x", "messages": chat("x")},), "mine.jsonl:1 must be an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, why):
    with pytest.raises(InputError, match=why):
        read_prompts(prompts_file(tmp_path, *rows))


def test_no_json_no_file_and_a_damaged_one_are_said(tmp_path):
    (tmp_path / "a.jsonl").write_text("{domain\n")
    with pytest.raises(InputError, match=r"a\.jsonl:1 is not JSON"):
        read_prompts(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="cannot read prompts from"):
        read_prompts(tmp_path / "none.jsonl")
    whole = gzip.compress(b'{"domain": "a", "prompt": "b"}\n' * 100)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot read prompts from"):
        read_prompts(tmp_path / "cut.jsonl.gz")


def test_each_domain_needs_a_prompt(tmp_path):
    with pytest.raises(InputError, match="no prompt of domain 'spider-sql'; it has gsm8k"):
        check_covers({"gsm8k": ["one"]}, ["gsm8k", "spider-sql"], Path("mine.jsonl"))


def test_a_pool_is_used_up_before_it_repeats_and_seeds_differ_in_order():
    own = Own({"a": [[i] for i in range(8)], "b": [[100]]}, "")
    first = own.of(requests_of(*"aaaabaaaab"), 0)
    assert Counter(p[0] for p in first) == Counter([*range(8), 100, 100])
    assert own.of(requests_of(*"aaaabaaaab"), 0) == first
    assert own.of(requests_of(*"aaaabaaaab"), 1) != first


def test_prompts_that_do_not_fit_are_left_out_and_counted():
    texts = {"a": ["x" * 5, "x" * 50], "b": ["y"]}
    own = own_prompts(texts, Letters(), 10, Path("mine.jsonl"))
    assert own.note == "2 prompts of mine.jsonl; 1 were too long and left out"
    assert {len(p) for p in own.of(requests_of(*"aaa"), 0)} == {6}
    with pytest.raises(InputError, match=r"every prompt of domain 'a' .* longer than the 5 tokens"):
        own_prompts(texts, Letters(), 5, Path("mine.jsonl"))


def test_a_chat_goes_through_the_template_once_without_tokens_beside_it(tmp_path):
    path = prompts_file(tmp_path, {"domain": "a", "messages": chat("hi", "you")}, row("a", "hi"))
    own = own_prompts(read_prompts(path), Chatty(), 100, path)
    found = {"".join(map(chr, p)) for p in own.of(requests_of(*"aa"), 0)}
    assert found == {"user:hi;user:you;assistant:", "\0hi"}


@pytest.mark.parametrize(
    ("tokenizer", "said", "why"),
    [
        (Letters(), chat("hi"), "domain 'a' in mine.jsonl has chats .* no chat template"),
        (Chatty(), chat("hi", role="system"), "refuses a chat of domain 'a' in mine.jsonl: no system here"),
    ],
)
def test_a_chat_that_cannot_be_said_is_refused(tokenizer, said, why):
    with pytest.raises(InputError, match=why):
        own_prompts({"a": [said]}, tokenizer, 100, Path("mine.jsonl"))


# --- the workload ------------------------------------------------------------------------------


def test_requests_say_prompts_of_their_domain():
    own = Own({"gsm8k": [[1], [1, 1]], "spider-sql": [[2]]}, "")
    asks = Workload(parse_scenario(SCENARIO, "test"), 40, 1.0, own, output_tokens=9).asks(0)
    for ask in asks:
        assert set(ask.prompt) == ({1} if ask.request.domain == "gsm8k" else {2})
        assert (ask.request.prompt_tokens, ask.request.output_tokens) == (len(ask.prompt), 9)


def test_a_trace_supplies_arrivals_and_labels_and_the_load_divides_them(tmp_path):
    trace = tmp_path / "trace.jsonl"
    rows = [Request(i, 0.5 * i**1.5, 1000, 2000, "codesearchnet", "acme") for i in range(30)]
    write_trace(trace, rows)
    scenario = parse_scenario(SCENARIO + '[[tenants]]\nname = "acme"\n', "test")
    workload = Workload(scenario, 20, 2.0, Generated(Letters(), 20), trace)
    asks = workload.asks(0)
    assert [a.request.arrival for a in asks] == pytest.approx([r.arrival / 2.0 for r in rows[:20]])
    assert {a.request.domain for a in asks} == {"codesearchnet"}
    assert {a.request.output_tokens for a in asks} == {64}
    assert workload.rate() == pytest.approx(20 / rows[19].arrival)
    assert len(next(workload.known(0))) > 0


# --- what is refused beforehand ----------------------------------------------------------------


def test_a_short_trace_ends_the_run_with_it(servable, tmp_path):
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, [Request(i, float(i), 10, 20, "gsm8k", "default") for i in range(7)])
    job = live_job.prepare(load_scenario("domain-shift"), model="m", requests=100, trace=trace)
    assert job.requests == 7


def test_prompts_must_cover_scenario_and_trace(servable, tmp_path):
    scenario = parse_scenario(SCENARIO, "test")
    path = prompts_file(tmp_path, row("gsm8k", "one"), row("spider-sql", "two"))
    assert live_job.prepare(scenario, model="m", prompts=path).prompts == path
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, [Request(0, 0.0, 10, 20, "codesearchnet", "default")])
    with pytest.raises(InputError, match="no prompt of domain 'codesearchnet'"):
        live_job.prepare(scenario, model="m", prompts=path, trace=trace)


@pytest.mark.parametrize("tokens", [7, 512])
def test_the_output_must_leave_room_for_a_prompt(servable, tokens):
    with pytest.raises(InputError, match=f"output tokens is {tokens}; .* the context of m holds 512"):
        live_job.prepare(load_scenario("domain-shift"), model="m", output_tokens=tokens)
