"""The load generator against a server in the same process."""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
import time

import pytest

pytest.importorskip("aiohttp")

from fake_server import BREAKS, DONE, ERRS, HALF, OK, REFUSES, STUCK, FakeServer, chunk, event, served, usage

from harness.contract import UNKNOWN, Request
from harness.errors import InputError, MissingPart
from harness.live import load
from harness.live.completion import Completion
from harness.live.labels import DOMAIN, FOREIGN, ID, TENANT, TRACE, Labels, labels, read_labels
from harness.live.load import Answer, Ask, closed_loop, drive, largest_lag


def ask(request_id: int, arrival: float = 0.0, kind: int = OK, output_tokens: int = 100) -> Ask:
    request = Request(request_id, arrival, 3, output_tokens, domain="code", tenant="acme")
    return Ask(request, [kind, 7, 8])


async def driven(url: str, asks: list[Ask], timeout: float = 20.0, **more) -> list[Answer]:
    began = time.monotonic()
    return await drive(url, "m", asks, began=began, most_tokens=50, timeout=timeout, **more)


# --- the open loop -----------------------------------------------------------------------------


def test_a_stuck_request_delays_no_other():
    asks = [ask(0, 0.0, STUCK), *(ask(i, 0.05 * i) for i in range(1, 7))]

    async def use(server: FakeServer) -> list[Answer]:
        return await driven(server.url, asks, timeout=1.5)

    stuck, *others = served(use, pace=0.01)
    assert stuck.status == "failed"
    assert stuck.error == "no end within 1.5 s"
    assert all(a.status == "finished" and a.finish < stuck.finish for a in others)


def test_requests_leave_at_their_arrivals_however_slow_the_answers():
    """Answers take 0.6 s, arrivals are 0.05 s apart: a closed loop would be far behind."""
    asks = [ask(i, 0.05 * i) for i in range(10)]

    async def use(server: FakeServer) -> tuple[list[Answer], int]:
        return await driven(server.url, asks), server.most_in_flight

    answers, most = served(use, pace=0.2)
    lags = [a.sent - a_ask.request.arrival for a, a_ask in zip(answers, asks, strict=True)]
    assert all(0.0 <= lag < 0.2 for lag in lags)
    assert largest_lag(asks, answers) == max(lags)
    assert most >= 5


def test_a_late_start_is_seen_as_lag():
    async def use(server: FakeServer) -> list[Answer]:
        late = time.monotonic() - 2.0
        return await drive(server.url, "m", [ask(0)], began=late, most_tokens=5, timeout=20)

    answers = served(use)
    assert 2.0 <= largest_lag([ask(0)], answers) < 4.0


def test_answers_come_in_the_order_of_the_requests_and_are_told_as_they_end():
    told: list[int] = []
    asks = [ask(5, 0.3), ask(2, 0.0)]

    async def use(server: FakeServer) -> list[Answer]:
        return await driven(server.url, asks, on_answer=lambda a: told.append(a.request_id))

    assert [a.request_id for a in served(use)] == [5, 2]
    assert told == [2, 5]


def test_what_is_asked_of_the_server():
    async def use(server: FakeServer) -> FakeServer:
        await driven(server.url, [ask(4, output_tokens=2), ask(5, output_tokens=900)])
        return server

    server = served(use)
    by_id = {b["vllm_xargs"][ID]: b for b in server.bodies}
    assert by_id[4]["vllm_xargs"] == {ID: 4, DOMAIN: "code", TENANT: "acme", TRACE: 1}
    assert (by_id[4]["max_tokens"], by_id[5]["max_tokens"]) == (2, 50)
    body = by_id[4]
    assert (body["temperature"], body["stream"], body["return_token_ids"]) == (0, True, True)
    assert body["stream_options"] == {"include_usage": True}
    assert set(server.request_ids) == {"specdrift-4", "specdrift-5"}


def test_both_loops_sample_at_the_temperature_given():
    async def use(server: FakeServer) -> FakeServer:
        await driven(server.url, [ask(0)], temperature=0.7)
        prompts = iter([[OK, 1]])
        await closed_loop(server.url, "m", prompts, concurrency=1, seconds=5, most_tokens=3, temperature=0.7)
        return server

    assert [b["temperature"] for b in served(use).bodies] == [0.7, 0.7]


def test_mistakes_are_refused_before_anything_is_sent():
    with pytest.raises(InputError, match="same id"):
        asyncio.run(driven("http://127.0.0.1:1", [ask(1), ask(1)]))
    with pytest.raises(InputError, match="request 3 has an empty prompt"):
        asyncio.run(driven("http://127.0.0.1:1", [Ask(ask(3).request, [])]))


# --- one answer --------------------------------------------------------------------------------


def test_a_finished_answer():
    async def use(server: FakeServer) -> list[Answer]:
        return await driven(server.url, [ask(0, 0.1)])

    (answer,) = served(use, steps=4, pace=0.05)
    assert answer.status == "finished"
    assert answer.error == ""
    assert answer.tokens == tuple(range(8))
    assert (answer.output_tokens, answer.chunks, answer.attempts) == (8, 4, 1)
    assert 0.1 <= answer.sent <= answer.first_token - 0.05
    assert answer.finish - answer.first_token >= 0.14


FAILING = {
    REFUSES: ("HTTP 400: prompt is too long", 0),
    BREAKS: ("ClientPayloadError", 6),
    ERRS: ("the server broke off: engine died", 6),
    HALF: ("the stream ended after 3 chunks without its end", 6),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_failure_is_told_and_never_tried_again(kind: int):
    async def use(server: FakeServer) -> tuple[list[Answer], int]:
        return await driven(server.url, [ask(0, kind=kind)]), len(server.bodies)

    (answer,), requests = served(use)
    error, tokens = FAILING[kind]
    assert answer.status == "failed"
    assert error in answer.error
    assert (answer.attempts, requests) == (1, 1)
    assert len(answer.tokens) == tokens
    assert answer.finish >= answer.sent


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_server_that_is_not_there_is_tried_twice(monkeypatch):
    monkeypatch.setattr(load, "RETRY_PAUSE", 0.01)
    (answer,) = asyncio.run(driven(f"http://127.0.0.1:{free_port()}", [ask(0)]))
    assert (answer.status, answer.attempts) == ("failed", 2)
    assert "ClientConnectorError" in answer.error
    assert math.isnan(answer.first_token)


def test_a_second_attempt_that_connects_is_counted(monkeypatch):
    monkeypatch.setattr(load, "RETRY_PAUSE", 1.0)

    async def run() -> list[Answer]:
        server = FakeServer(port=free_port())
        answers = asyncio.create_task(driven(server.url, [ask(0)]))
        await asyncio.sleep(0.3)
        async with server:
            return await answers

    (answer,) = asyncio.run(run())
    assert (answer.status, answer.attempts) == ("finished", 2)
    assert answer.sent < 0.3, "its time runs from the first attempt"


def test_a_stopped_run_answers_for_every_request():
    asks = [ask(0, 0.0, STUCK), ask(1, 0.0), ask(2, 30.0)]

    async def use(server: FakeServer) -> tuple[list[Answer], int]:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, stop.set)
        answers = await driven(server.url, asks, stop=stop)
        await asyncio.sleep(0.2)
        return answers, server.broken_off

    began = time.monotonic()
    (stuck, done, unsent), broken_off = served(use)
    assert time.monotonic() - began < 10.0
    assert done.status == "finished"
    assert (stuck.error, stuck.attempts, broken_off) == ("broken off: the run was stopped", 1, 1)
    assert (unsent.error, unsent.attempts) == ("not sent: the run was stopped", 0)
    assert math.isnan(unsent.sent)
    assert math.isnan(unsent.finish)
    assert largest_lag(asks[2:], [unsent]) == 0.0


def test_a_cancelled_run_ends_as_cancelled():
    async def use(server: FakeServer) -> int:
        run = asyncio.create_task(driven(server.url, [ask(0, kind=STUCK), ask(1, 30.0)]))
        await asyncio.sleep(0.3)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        return len(asyncio.all_tasks()) - server.in_flight

    assert served(use) <= 3, "no request of the run is left waiting for its arrival"


# --- the stream --------------------------------------------------------------------------------

STREAM = b": a comment\r\n\r\n" + chunk([]) + chunk([1]) + chunk([2, 3, 4], "stop") + usage(4) + DONE


def heard(pieces: list[bytes]) -> Completion:
    completion = Completion()
    for i, piece in enumerate(pieces):
        completion.feed(piece, float(i))
    return completion


def test_wherever_the_stream_is_cut_it_says_the_same():
    whole = heard([STREAM])
    assert (whole.tokens, whole.chunks, whole.usage, whole.problem) == ([1, 2, 3, 4], 2, 4, "")
    byte_by_byte = [STREAM[i : i + 1] for i in range(len(STREAM))]
    cuts = [[STREAM[:i], STREAM[i:]] for i in range(len(STREAM))]
    for pieces in [byte_by_byte, *cuts]:
        found = heard(pieces)
        assert (found.tokens, found.chunks, found.usage, found.problem) == ([1, 2, 3, 4], 2, 4, "")


def test_times_are_of_the_first_token_and_of_the_end():
    found = heard([chunk([]), chunk([5]), chunk([6]), chunk([7, 8], "length"), usage(4) + DONE])
    assert (found.first_token, found.finish) == (1.0, 3.0)


def test_a_server_without_token_ids_is_counted_by_its_usage():
    text = event(choices=[{"text": "hello"}]) + event(choices=[{"text": "", "finish_reason": "stop"}])
    found = heard([text + usage(7) + DONE])
    assert (found.output_tokens, found.chunks, found.tokens, found.problem) == (7, 1, [], "")
    assert "neither token ids nor a count" in heard([text + DONE]).problem


PROBLEMS = {
    "the server ended it with 'abort'": chunk([1], "abort") + usage(1) + DONE,
    "counts 5 tokens but sent 1": chunk([1], "stop") + usage(5) + DONE,
    "ended after 1 chunks without its end": chunk([1], "stop") + usage(1),
    "broke off: out of memory": chunk([1]) + event(error="out of\nmemory") + DONE,
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_an_end_that_is_none(problem: str):
    assert problem in heard([PROBLEMS[problem]]).problem


@pytest.mark.parametrize("line", [b"data: {nothing}\n", b"data: 3\n", b'data: {"usage":{"a":1}}\n'])
def test_a_line_that_is_no_event_is_an_error(line: bytes):
    with pytest.raises(ValueError, match="no event of a completion"):
        heard([line])


# --- the closed loop ---------------------------------------------------------------------------


def test_a_closed_loop_keeps_its_number_in_flight_and_lets_the_last_end():
    async def use(server: FakeServer) -> tuple[int, FakeServer]:
        prompts = itertools.repeat([OK, 1])
        return await closed_loop(server.url, "m", prompts, concurrency=3, seconds=0.6, most_tokens=3), server

    answered, server = served(use, pace=0.05)
    assert server.most_in_flight == 3
    assert (answered, server.broken_off) == (len(server.bodies), 0)
    assert answered >= 6
    assert {str(b["vllm_xargs"]) for b in server.bodies} == {str({TRACE: 0})}


def test_a_closed_loop_ends_with_its_prompts():
    async def use(server: FakeServer) -> int:
        prompts = iter([[OK, i] for i in range(5)])
        return await closed_loop(server.url, "m", prompts, concurrency=2, seconds=60, most_tokens=3)

    assert served(use) == 5


def test_a_closed_loop_over_a_failing_server_is_an_error():
    async def use(server: FakeServer) -> int:
        prompts = itertools.repeat([REFUSES])
        return await closed_loop(server.url, "m", prompts, concurrency=2, seconds=60, most_tokens=3)

    with pytest.raises(MissingPart, match="fails before the run has begun: HTTP 400"):
        served(use)


# --- labels ------------------------------------------------------------------------------------


def test_labels_come_back_as_they_were_sent():
    request = Request(12, 0.0, 3, 3, domain="sql", tenant="acme")
    assert read_labels(labels(request, trace=False)) == Labels("sql", "acme", False, 12)


@pytest.mark.parametrize("foreign", [None, {}, {"other": 1}, {DOMAIN: "", TENANT: 7, ID: "x", TRACE: []}])
def test_a_foreign_client_is_served_and_learned_from(foreign):
    assert read_labels(foreign) == Labels(UNKNOWN, UNKNOWN, True, FOREIGN)


def test_numbers_may_come_as_text():
    assert read_labels({ID: "3", TRACE: "0"}) == Labels(trace=False, request_id=3)
