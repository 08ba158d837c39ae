"""One (arm, seed) cell of a simulation, and the parts of its world that every source of acceptance shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.contract import Request
from harness.errors import InputError
from harness.latency import load as load_latency
from harness.latency.model import LatencyModel
from harness.policy import Policy, PolicyContext
from harness.rng import stream
from harness.sim.engine import Engine, EngineConfig
from harness.sim.trainer import TrainerConfig
from harness.sim.world import Happening
from workloads.generate import apply_trace, generate
from workloads.scenario import Scenario
from workloads.traces import read_trace

DEFAULT_KV_TOKENS = 400_000
"""Used when neither the scenario nor the latency model says what the KV cache holds (assumed)."""

DEFAULT_MADE_MODEL = "tiny"


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm under one seed; picklable, so that a worker process can run it."""

    scenario: Scenario
    policy: str
    seed: int
    latency: str
    trace: Path | None = None
    requests: int | None = None
    """Cut the run short after this many requests."""
    prefix_hashes: int = 0
    """Most prefix hashes of one request of the trace."""
    draft: str | None = None
    """`roofline`: an analytic EAGLE-3 head for measured tables that hold no draft passes."""
    policy_latency: str | None = None
    """The latency model that policies are given; None: the simulator's own, so theirs has no error."""

    acceptance: str = "parametric"
    """`parametric`; `model[:NAME]`: a made model and a real learner; `replay:RUN`: as an arm of a run recorded
    it, and `policy` is that arm's name."""
    lender: str | None = None
    """Under replay, for a policy that is no arm of the run: the arm whose drafter and trainer it meets."""

    @property
    def model(self) -> str | None:
        """Name of the made model; None under parametric acceptance."""
        kind, _, name = self.acceptance.partition(":")
        return (name or DEFAULT_MADE_MODEL) if kind == "model" else None

    @property
    def total(self) -> int:
        return self.requests or self.scenario.requests


def priced_latency(cell: Cell, policy: Policy) -> LatencyModel:
    """The cell's latency model. InputError when it cannot price what the policy does."""
    latency = load_latency(cell.latency, draft=cell.draft)
    if policy.uses_drafter and not latency.has_drafter:
        raise InputError(
            f"latency model {latency.name} knows no drafter, so policy {cell.policy!r} cannot be priced on it; "
            "add --draft roofline for an analytic one, or use policy 'none'"
        )
    return latency


def requests_of(cell: Cell) -> Iterator[Request]:
    """The cell's requests in order of arrival; the same for every arm of a seed."""
    if cell.trace is not None:
        return apply_trace(cell.scenario, read_trace(cell.trace, seed=cell.seed), cell.seed, cell.total)
    return generate(cell.scenario.model_copy(update={"requests": cell.total}), cell.seed)


def engine_config(cell: Cell, latency: LatencyModel, drafter: bool) -> EngineConfig:
    """Defaults, what the latency model implies, and what the scenario overrides."""
    given: dict[str, Any] = cell.scenario.engine.overrides()
    given.pop("tensor_parallel", None)
    config = EngineConfig(
        kv_tokens=latency.kv_capacity_tokens or DEFAULT_KV_TOKENS,
        max_k=min(cell.scenario.max_k, latency.max_k) if drafter else 0,
        drafter_loaded=drafter,
        prefix_hashes=cell.prefix_hashes,
    )
    return replace(config, **given)


def trainer_config(scenario: Scenario, latency: LatencyModel) -> TrainerConfig:
    """Where it shares the server's accelerator and the scenario leaves open what that costs, as the latency model was
    seen to be slowed."""
    t = scenario.trainer
    told = t.own_accelerator or t.interference > 1.0
    return TrainerConfig(
        samples_per_second=t.samples_per_second,
        samples_per_step=t.samples_per_step,
        buffer_requests=t.buffer_requests,
        buffer_tokens=t.buffer_bytes // t.bytes_per_token,
        slowdown=t.interference if told else latency.interference,
    )


def happenings_of(cell: Cell) -> list[Happening]:
    scenario, total = cell.scenario, cell.total
    updates = [
        Happening(int(u.at * total), "verifier_update", u.stall, u.retained, u.kv_invalid)
        for u in scenario.verifier_updates
    ]
    faults = [Happening(int(f.at * total), f.kind) for f in scenario.faults]
    shifts = [Happening(int(s.at * total), "shift", note=s.after) for s in scenario.shifts()]
    return updates + faults + shifts


def context_of(
    cell: Cell,
    latency: LatencyModel,
    engine: Engine,
    hazards: tuple[float, ...],
    mean_context: float,
    trainer: TrainerConfig | None,
) -> PolicyContext:
    """The context from what was measured beforehand on known traffic."""
    return PolicyContext(
        max_k=engine.config.max_k,
        max_batch=engine.config.max_num_seqs,
        predict=(load_latency(cell.policy_latency) if cell.policy_latency else latency).predict,
        offline_hazards=hazards,
        mean_context=mean_context,
        trainer=trainer is not None,
        trainer_accelerators=cell.scenario.trainer.price,
        swap_stall=cell.scenario.swap.stall,
        slo=dict(engine.labels.slo),
        seed=int(stream(cell.seed, "policy").integers(2**31)),
        heldout_k=trainer.eval_k if trainer else None,
    )


def mean_context(requests: Sequence[Request]) -> float:
    """Tokens of context of a decoding request, each request weighed by its output tokens."""
    work = sum(r.output_tokens for r in requests)
    return sum((r.prompt_tokens + r.output_tokens / 2) * r.output_tokens for r in requests) / work


def known_traffic(cell: Cell) -> Iterator[Request]:
    return requests_of(replace(cell, seed=cell.seed + 1_000_003))
