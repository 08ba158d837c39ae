"""One streamed completion asked of an OpenAI-compatible server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp

from harness.live.completion import Completion, error_of

IDLE_SECONDS = 2.0
"""An idle connection is closed by us before the server's own limit (vLLM: 5 s), or a request could leave on a
connection that the server is just closing."""


class Refused(Exception):
    """The server answered with an HTTP error."""


FAILURES = (TimeoutError, aiohttp.ClientError, OSError, ValueError, Refused)
"""What a server can do to a client."""


def open_session() -> aiohttp.ClientSession:
    """To be closed by the caller. No limit on connections, which would close an open loop; no time limits
    either: the callers keep the time."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))


@dataclass(frozen=True, slots=True)
class Client:
    """Streamed, with token ids and the server's count of tokens."""

    session: aiohttp.ClientSession
    url: str
    model: str
    temperature: float = 0.0
    """0: greedy."""

    async def complete(
        self,
        prompt: list[int],
        most: int,
        xargs: Mapping[str, str | int],
        heard: Completion,
        clock: Callable[[], float],
        headers: Mapping[str, str],
    ) -> None:
        """Ask for `most` tokens at most and feed the answer to `heard`. Raises one of FAILURES."""
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": most,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "vllm_xargs": xargs,
        }
        data = json.dumps(body, separators=(",", ":"))
        headers = {"Content-Type": "application/json", **headers}
        async with self.session.post(f"{self.url}/v1/completions", data=data, headers=headers) as response:
            if response.status != 200:
                raise Refused(f"HTTP {response.status}: {await _message(response)}")
            async for piece in response.content.iter_any():
                heard.feed(piece, clock())


def sentence(failure: BaseException, timeout: float) -> str:
    """One of FAILURES in words; `timeout` is the seconds that were allowed."""
    # aiohttp's own time limits are off, so that a TimeoutError without a text is always ours.
    if isinstance(failure, TimeoutError) and not str(failure):
        return f"no end within {timeout:g} s"
    return str(failure) if isinstance(failure, Refused) else f"{type(failure).__name__}: {failure}"


async def _message(response: aiohttp.ClientResponse) -> str:
    text = await response.text(errors="replace")
    try:
        return error_of(json.loads(text))
    except ValueError:
        return error_of(text)
