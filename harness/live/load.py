"""The load generator: sends a workload to an OpenAI-compatible server and times the answers.

`drive` is an open loop: each request leaves at its own arrival, however many are still unanswered, so a slow
server meets a queue and not a polite client. `closed_loop` keeps a fixed number in flight: warm-up, calibration.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import aiohttp

from harness.contract import Request
from harness.errors import InputError, MissingPart
from harness.live.client import FAILURES, Client, open_session, sentence
from harness.live.completion import Completion
from harness.live.labels import TRACE, labels

RETRY_PAUSE = 0.2
"""Seconds before the second and last attempt to connect."""
CLOSED_LOOP_TIMEOUT = 600.0
"""Seconds for one request of a closed loop: the first ones may wait for compilation."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request and what it says. It generates at most `request.output_tokens`."""

    request: Request
    prompt: list[int]
    """Token ids, at least one."""
    trace: bool = True
    """Whether the learner may see it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request. Times are seconds since the run began; NaN where it never happened."""

    request_id: int
    sent: float
    first_token: float
    finish: float
    """Its last token; of a failed one, when the failure was known."""
    tokens: tuple[int, ...]
    """Output token ids; empty from a server that returns none."""
    output_tokens: int
    chunks: int
    """Events that held tokens."""
    status: str
    """`finished` or `failed`."""
    error: str
    """Why it failed."""
    attempts: int
    """2 when the first could not connect; 0 when the run was stopped before its arrival."""


async def drive(
    url: str,
    model: str,
    asks: Sequence[Ask],
    *,
    began: float,
    most_tokens: int,
    timeout: float,
    temperature: float = 0.0,
    on_answer: Callable[[Answer], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> list[Answer]:
    """Send each request at `began + request.arrival` (time.monotonic) and wait for all answers.

    Args:
        url: of the server, without `/v1`.
        most_tokens: no request generates more, whatever its `output_tokens`.
        timeout: seconds from sending to the end of one answer.
        temperature: of sampling; 0 is greedy.
        on_answer: called with each answer as it is complete.
        stop: once set, requests in flight are broken off and the rest never sent; all are `failed`.

    Returns:
        One answer per request, in the order of `asks`.
    """
    _check(asks)
    stop = stop or asyncio.Event()
    async with open_session() as session:
        loop = _OpenLoop(
            Client(session, url, model, temperature), began, most_tokens, timeout, on_answer, stop
        )
        tasks = [asyncio.create_task(loop.answer(ask)) for ask in asks]
        watch = asyncio.create_task(_cancel_when(stop, tasks))
        try:
            return await _all(tasks)
        finally:
            watch.cancel()


async def closed_loop(
    url: str,
    model: str,
    prompts: Iterator[list[int]],
    *,
    concurrency: int,
    seconds: float,
    most_tokens: int,
    temperature: float = 0.0,
) -> int:
    """Keep `concurrency` requests in flight for `seconds`, or until the prompts run out; then let the last ones
    end. They carry no labels and leave no traces.

    Returns:
        How many were answered.

    Raises:
        MissingPart: one failed; such a server is not fit to be measured.
    """
    end = time.monotonic() + seconds

    async def one_at_a_time(client: Client) -> int:
        answered = 0
        while time.monotonic() < end and (prompt := next(prompts, None)) is not None:
            if problem := await _problem_with(client, prompt, most_tokens):
                raise MissingPart(f"the server at {url} fails before the run has begun: {problem}")
            answered += 1
        return answered

    async with open_session() as session:
        client = Client(session, url, model, temperature)
        return sum(await _all([asyncio.create_task(one_at_a_time(client)) for _ in range(concurrency)]))


def largest_lag(asks: Sequence[Ask], answers: Sequence[Answer]) -> float:
    """Seconds by which the latest request left after its arrival; 0 when none was sent. More than a few
    milliseconds mean that the client, not the workload, set the pace."""
    pairs = zip(asks, answers, strict=True)
    return max((a.sent - ask.request.arrival for ask, a in pairs if a.attempts), default=0.0)


def _check(asks: Sequence[Ask]) -> None:
    if len({ask.request.request_id for ask in asks}) < len(asks):
        raise InputError("two requests have the same id; ids must differ, or answers could not be told apart")
    for ask in asks:
        if not ask.prompt:
            raise InputError(f"request {ask.request.request_id} has an empty prompt; give at least one token")


async def _problem_with(client: Client, prompt: list[int], most: int) -> str:
    """Why this prompt is not answered; empty when it is."""
    heard = Completion()
    try:
        async with asyncio.timeout(CLOSED_LOOP_TIMEOUT):
            await client.complete(prompt, most, {TRACE: 0}, heard, time.monotonic, {})
    except FAILURES as failure:
        return sentence(failure, CLOSED_LOOP_TIMEOUT)
    return heard.problem


async def _cancel_when(stop: asyncio.Event, tasks: Sequence[asyncio.Task[Any]]) -> None:
    await stop.wait()
    for task in tasks:
        task.cancel()


async def _all(tasks: Sequence[asyncio.Task[Result]]) -> list[Result]:
    """Their results; the first error ends them all."""
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@dataclass(frozen=True, slots=True)
class _OpenLoop:
    client: Client
    began: float
    most_tokens: int
    timeout: float
    on_answer: Callable[[Answer], None]
    stop: asyncio.Event

    async def answer(self, ask: Ask) -> Answer:
        """Wait for the request's arrival, send it, hear it out."""
        log = _Log()
        try:
            await asyncio.sleep(ask.request.arrival - self._now())
            log.sent = self._now()
            async with asyncio.timeout(self.timeout):
                await self._attempt(ask, log)
            error = log.heard.problem
        except FAILURES as failure:
            error = sentence(failure, self.timeout)
        except asyncio.CancelledError:
            if not self.stop.is_set():  # then it is not ours: the whole run is being cancelled
                raise
            error = "broken off: the run was stopped" if log.attempts else "not sent: the run was stopped"
        answer = log.answer(ask.request.request_id, error, self._now())
        self.on_answer(answer)
        return answer

    async def _attempt(self, ask: Ask, log: _Log) -> None:
        """Once, and again only where no connection came about: no request is ever served twice."""
        request = ask.request
        send = partial(
            self.client.complete,
            ask.prompt,
            min(request.output_tokens, self.most_tokens),
            labels(request, ask.trace),
            log.heard,
            self._now,
            {"X-Request-Id": f"specdrift-{request.request_id}"},
        )
        log.attempts = 1
        try:
            await send()
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(RETRY_PAUSE)
            log.attempts = 2
            await send()

    def _now(self) -> float:
        return time.monotonic() - self.began


class _Log:
    """One request under way."""

    def __init__(self) -> None:
        self.sent = math.nan
        self.attempts = 0
        self.heard = Completion()

    def answer(self, request_id: int, error: str, now: float) -> Answer:
        heard = self.heard
        return Answer(
            request_id=request_id,
            sent=self.sent,
            first_token=heard.first_token,
            finish=heard.finish if not error else now if self.attempts else math.nan,
            tokens=tuple(heard.tokens),
            output_tokens=heard.output_tokens,
            chunks=heard.chunks,
            status="failed" if error else "finished",
            error=error,
            attempts=self.attempts,
        )
