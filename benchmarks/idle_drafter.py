"""What a drafter that does not draft costs a real server: `python benchmarks/idle_drafter.py [--model small]`.

Three servers on this machine, one at work at a time, in turns: without a drafter; with one at K = 0 that rests
(harness/live/resting.py); with one at K = 0 in vLLM's own way, whose first pass runs in every step. Closed loops of 64
tokens, every request traced as in a run. Printed is the median decode step of each, and its ratio to the server
without a drafter, mean over the rounds and twice its standard error. Needs specdrift[live] and the model, and nothing
else running.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.contract import constant_k
from harness.live.link import STEP, STEP_ROW, Link
from harness.live.load import closed_loop
from harness.live.models import model_spec
from harness.live.server import Server, ServerConfig

CONFIGS = {
    "no drafter": {"drafter": False},
    "idle, rests": {},
    "idle, as vLLM": {"rest": False},
}
SECONDS, PROMPT, TOKENS = 2.0, 48, 64


def prompts() -> Iterator[list[int]]:
    rng = np.random.default_rng(0)
    return (rng.integers(3, 1000, PROMPT).tolist() for _ in itertools.count())


def decode_step(server: Server, batch: int) -> float:
    """Median milliseconds of a decode step with `batch` sequences."""
    for ring in (server.link.steps, server.link.traces):
        for _ in ring.take():
            pass
    name = server.config.model.name
    asyncio.run(
        closed_loop(server.url, name, prompts(), concurrency=batch, seconds=SECONDS, most_tokens=TOKENS)
    )
    rows = np.array([np.frombuffer(c, STEP_ROW)[0] for kind, c in server.link.steps.take() if kind == STEP])
    decode = rows[(rows["prefill_tokens"] == 0) & (rows["batch"] == batch)]
    return 1e3 * float(np.median(decode["seconds"]))


def run(model: str, rounds: int, batches: list[int]) -> None:
    spec, work = model_spec(model, cache_only=True), Path(tempfile.mkdtemp(prefix="specdrift-idle-"))
    servers = {}
    for name, settings in CONFIGS.items():
        link = Link.create()
        link.control.write_schedule(constant_k(0))
        link.control.set("sample", 1.0)
        config = ServerConfig(spec, link.folder, **settings)  # type: ignore[arg-type]
        servers[name] = Server.start(config, link, work / f"{name}.log")
    try:
        for server in servers.values():
            server.wait_ready()
            decode_step(server, max(batches))
        for batch in batches:
            found = {name: np.empty(rounds) for name in servers}
            for i in range(rounds):
                for name in list(servers)[:: 1 if i % 2 == 0 else -1]:
                    found[name][i] = decode_step(servers[name], batch)
            for name, steps in found.items():
                ratio = steps / found["no drafter"]
                error = 2 * ratio.std(ddof=1) / rounds**0.5
                print(
                    f"{batch:3d} sequences  {name:14s} {np.median(steps):6.1f} ms  {ratio.mean():.3f} +- {error:.3f}"
                )
    finally:
        for server in servers.values():
            server.stop()
            server.link.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batches", default="1,8,16")
    given = parser.parse_args()
    run(given.model, given.rounds, [int(b) for b in given.batches.split(",")])


if __name__ == "__main__":
    main()
