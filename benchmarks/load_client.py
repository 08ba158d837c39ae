"""What the load generator costs: CPU time of the client per streamed request, and how late its requests leave.

    python benchmarks/load_client.py [--requests 400] [--rate 20] [--tokens 64] [--per-chunk 1] [--pace 0.01]

A server in another process streams `tokens` tokens in chunks of `per-chunk`, `pace` seconds apart, as vLLM spells
them. Counted is the client process alone: with one chunk per token it is the worst case, a server without
speculation. Two lines are printed: as measured, and of the parser by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from multiprocessing.connection import Connection

from aiohttp import web

from harness.contract import Request
from harness.live.completion import Completion
from harness.live.load import Ask, drive, largest_lag


def events(tokens: int, per_chunk: int) -> list[bytes]:
    """One piece of network data per engine step."""
    shared = {
        "id": "cmpl-specdrift-1234",
        "object": "text_completion",
        "created": 1764000000,
        "model": "target",
    }
    pieces = []
    for at in range(0, tokens, per_chunk):
        size = min(per_chunk, tokens - at)
        choice = {
            "index": 0, "text": " word" * size, "logprobs": None, "stop_reason": None, "prompt_token_ids": None,
            "finish_reason": "length" if at + size == tokens else None, "token_ids": list(range(at, at + size)),
        }  # fmt: skip
        pieces.append(b"data: " + json.dumps({**shared, "choices": [choice]}).encode() + b"\n\n")
    usage = {"prompt_tokens": 200, "completion_tokens": tokens, "total_tokens": 200 + tokens}
    pieces[-1] += b"data: " + json.dumps({**shared, "choices": [], "usage": usage}).encode() + b"\n\n"
    pieces[-1] += b"data: [DONE]\n\n"
    return pieces


def serve(port: Connection, pieces: list[bytes], pace: float) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(pace)
        return response

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


def measure(url: str, requests: int, rate: float, tokens: int) -> str:
    asks = [Ask(Request(i, i / rate, 200, tokens), list(range(200))) for i in range(requests)]
    warm = Ask(Request(0, 0.0, 200, tokens), list(range(200)))
    asyncio.run(drive(url, "target", [warm], began=time.monotonic(), most_tokens=tokens, timeout=60))
    cpu, began = time.process_time(), time.monotonic()
    answers = asyncio.run(drive(url, "target", asks, began=began, most_tokens=tokens, timeout=60))
    spent = time.process_time() - cpu
    lags = sorted(a.sent - ask.request.arrival for a, ask in zip(answers, asks, strict=True))
    assert all(a.status == "finished" for a in answers), next(a.error for a in answers if a.error)
    return (
        f"{1e3 * spent / requests:.2f} ms of CPU per request of {tokens} tokens in {answers[0].chunks} chunks; "
        f"lag: median {1e3 * lags[len(lags) // 2]:.1f} ms, largest {1e3 * largest_lag(asks, answers):.1f} ms"
    )


def parsing(pieces: list[bytes], rounds: int = 300) -> str:
    cpu = time.process_time()
    for _ in range(rounds):
        completion = Completion()
        for piece in pieces:
            completion.feed(piece, 0.0)
        assert not completion.problem, completion.problem
    return f"of which parsing {1e3 * (time.process_time() - cpu) / rounds:.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--per-chunk", type=int, default=1)
    parser.add_argument("--pace", type=float, default=0.01, help="seconds between chunks")
    given = parser.parse_args()
    pieces = events(given.tokens, given.per_chunk)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs, pieces, given.pace), daemon=True)
    server.start()
    print(measure(f"http://127.0.0.1:{ours.recv()}", given.requests, given.rate, given.tokens))
    print(parsing(pieces))
    server.terminate()


if __name__ == "__main__":
    main()
