"""A completions server that answers as vLLM does, or fails as it may, by what the first prompt token says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

OK, STUCK, REFUSES, BREAKS, ERRS, HALF = range(6)
"""First prompt token: answer; never answer; HTTP 400; close in mid-stream; an error event; answer, no end."""


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def chunk(tokens: list[int], reason: str | None = None) -> bytes:
    return event(
        choices=[{"index": 0, "text": "x" * len(tokens), "token_ids": tokens, "finish_reason": reason}]
    )


def usage(tokens: int) -> bytes:
    return event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": tokens})


DONE = b"data: [DONE]\n\n"


class FakeServer:
    """Entered, it serves on a free port (or `port`). Every answer has `steps` chunks of two tokens, `pace` seconds
    apart."""

    def __init__(self, steps: int = 3, pace: float = 0.0, port: int = 0) -> None:
        self.steps = steps
        self.pace = pace
        self.port = port
        self.bodies: list[dict[str, Any]] = []
        self.request_ids: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.broken_off = 0
        """Requests whose client went away."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> FakeServer:
        app = web.Application()
        app.router.add_post("/v1/completions", self._count)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _count(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.request_ids.append(request.headers.get("X-Request-Id", ""))
        kind = body["prompt"][0]
        if kind == REFUSES:
            return web.json_response({"error": {"message": "prompt is\n too long", "code": 400}}, status=400)
        if kind == STUCK:
            await asyncio.sleep(60)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await self._stream(response, kind, min(self.steps, body["max_tokens"]))
        if kind == BREAKS and request.transport:
            request.transport.close()
        return response

    async def _stream(self, response: web.StreamResponse, kind: int, steps: int) -> None:
        for i in range(steps):
            await asyncio.sleep(self.pace)
            ends = i == steps - 1 and kind in (OK, STUCK)
            await response.write(chunk([2 * i, 2 * i + 1], "length" if ends else None))
        if kind == ERRS:
            await response.write(event(error={"message": "engine died", "code": 500}) + DONE)
        if kind in (OK, STUCK):
            await response.write(usage(2 * steps) + DONE)


def served(use: Callable[[FakeServer], Any], **settings: Any) -> Any:
    """Run the coroutine function `use` with a server; its result."""

    async def run() -> Any:
        async with FakeServer(**settings) as server:
            return await use(server)

    return asyncio.run(run())
