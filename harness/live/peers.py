"""Several workers that hold one model together change its weights in the same step, or none of them does.

Worker 0 is asked for a swap and asks the others, over sockets of their own, to prepare their parts. When all have, it
raises a flag by the number of the swap; the scheduler writes that number on the steps that follow, and each worker
flips before the first one that carries it, which is the same step for all. Where no step comes, worker 0 has the
others hold still and they flip together. Either way they compare how it went, and what one refuses all take back.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 110.0
"""Seconds that a worker has to answer another: less than who asked for the swap waits (`server.Worker`)."""


def _alone(values: list[float]) -> list[float]:
    return values


@dataclass(frozen=True, slots=True)
class Ranks:
    """This worker among those that hold the model together."""

    rank: int = 0
    size: int = 1
    worst: Callable[[list[float]], list[float]] = _alone
    """The largest of each value over all workers. All have to call it; it waits for them."""


class Peer:
    """Another worker, seen from worker 0."""

    def __init__(self, path: Path, rank: int) -> None:
        self._rank = rank
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.settimeout(PATIENCE)
        self._connection.connect(str(path))
        self._lines = self._connection.makefile("rw", encoding="utf-8")

    def send(self, question: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(question) + "\n")
        self._lines.flush()

    def hear(self) -> dict[str, Any]:
        """Its answer, which may be a no."""
        line = self._lines.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"ok": False, "error": "it hung up"}
        return answer | {"worker": self._rank}

    def close(self) -> None:
        self._lines.close()
        self._connection.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hear_all(peers: Sequence[Peer]) -> list[dict[str, Any]]:
    """One answer of each: none is left behind for the next question."""
    return [peer.hear() for peer in peers]


def agreed(answers: Sequence[Mapping[str, Any]]) -> None:
    """RuntimeError with the first no."""
    for answer in answers:
        if not answer["ok"]:
            raise RuntimeError(f"worker {answer['worker']}: {answer['error']}")
