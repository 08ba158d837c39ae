"""One streamed completion, read line by line as the server sends it.

The client shares two cores with the server, so this is all it does per piece of network data: split lines,
parse the JSON of each, keep the token ids.
"""

from __future__ import annotations

import math
from typing import Any

try:
    from orjson import loads
except ImportError:
    from json import loads

FINISHED = ("stop", "length")
"""Reasons of a regular end; any other (`abort`, `error`) is a failure."""


class Completion:
    """What the server has said so far. Times are whatever clock `feed` is given."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        """Token ids, where the server returns them."""
        self.chunks = 0
        """Events that held a token: at most one per engine step."""
        self.first_token = math.nan
        self.finish = math.nan
        """When the event with the reason of the end came."""
        self.usage: int | None = None
        """Output tokens by the server's own count."""
        self._rest = b""
        self._reason = ""
        self._error = ""
        self._done = False

    def feed(self, data: bytes, now: float) -> None:
        """Take what arrived at `now`, wherever it was cut. ValueError when a line is not what it must be."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):  # anything else is an empty line, a comment or a field we need not
                payload = line[5:].strip()
                if payload == b"[DONE]":
                    self._done = True
                    continue
                try:
                    self._take(loads(payload), now)
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    raise ValueError(f"{payload[:200]!r} is no event of a completion") from error

    def _take(self, event: Any, now: float) -> None:
        if "error" in event:
            self._error = self._error or error_of(event)
        if usage := event.get("usage"):
            self.usage = int(usage["completion_tokens"])
        for choice in event.get("choices") or ():
            tokens = choice.get("token_ids")
            if tokens or (tokens is None and choice.get("text")):
                self.tokens += tokens or ()
                self.chunks += 1
                if self.chunks == 1:
                    self.first_token = now
            if choice.get("finish_reason"):
                self._reason, self.finish = choice["finish_reason"], now

    @property
    def output_tokens(self) -> int:
        """By the server's count, or else by its ids."""
        return len(self.tokens) if self.usage is None else self.usage

    @property
    def problem(self) -> str:
        """Why this is no finished completion; empty when it is one."""
        if self._error:
            return f"the server broke off: {self._error}"
        if self._reason and self._reason not in FINISHED:
            return f"the server ended it with {self._reason!r}"
        if not (self._done and self._reason):
            return f"the stream ended after {self.chunks} chunks without its end"
        if self.usage is None and not self.tokens:
            return "the server returned neither token ids nor a count of tokens"
        if self.usage is not None and self.tokens and self.usage != len(self.tokens):
            return f"the server counts {self.usage} tokens but sent {len(self.tokens)}"
        return ""


def error_of(body: Any) -> str:
    """The message of an OpenAI-style error body, cut to a line."""
    found = body.get("error", body) if isinstance(body, dict) else body
    message = found.get("message", found) if isinstance(found, dict) else found
    return " ".join(str(message).split())[:200]
