"""A small engine and a way to drive it, shared by the simulator's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from harness.contract import Request, constant_k
from harness.latency import load
from harness.sim.acceptance import MAX_K
from harness.sim.engine import Engine, EngineConfig, Labels

LABELS = Labels(domains=("chat",), tenants=("default",), latent_sd=(0.5,))


@pytest.fixture(scope="session")
def published():
    """The published H100 fit: a closed form."""
    return load("h100-llama3-8b")


@pytest.fixture
def make_engine(published) -> Callable[..., Engine]:
    def make(*, k: int = 3, logit: float = 0.4, seed: int = 1, latency=published, **config) -> Engine:
        config = {"kv_tokens": 40_000, "max_num_seqs": 32, "max_k": 7} | config
        engine = Engine(EngineConfig(**config), LABELS, latency, seed)
        engine.set_schedule(constant_k(k))
        engine.set_drafter(np.full((1, MAX_K), logit), 0)
        return engine

    return make


def drive(
    engine: Engine,
    requests: Sequence[Request],
    chunk: int = 1 << 30,
    watch: Callable[[Engine, int], None] = lambda engine, submitted: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Serve `requests` (in order of arrival) to the end; at most `chunk` steps a call. Rows of steps and ends."""
    steps, done, submitted = [], [], 0
    while submitted < len(requests) or not engine.idle:
        if engine.idle:
            engine.wait_until(requests[submitted].arrival)
        while submitted < len(requests) and requests[submitted].arrival <= engine.clock:
            engine.submit(requests[submitted])
            submitted += 1
        horizon = requests[submitted].arrival if submitted < len(requests) else np.inf
        engine.advance(horizon, chunk)
        watch(engine, submitted)
        steps.append(engine.take_steps())
        done.append(engine.take_done())
    return np.concatenate(steps), np.concatenate(done)
