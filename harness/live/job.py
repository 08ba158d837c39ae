"""What a live run is asked to do, checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from harness.errors import InputError, MissingPart
from harness.live.models import ModelSpec, model_spec
from harness.live.needs import missing_parts
from harness.live.placement import ON_CPU, Placement, place
from harness.live.prompts import check_covers, read_prompts
from harness.policy import PolicyContext, make
from harness.speculator.texts import OUTPUT_TOKENS
from workloads.generate import apply_trace
from workloads.scenario import Scenario
from workloads.text import text_domain
from workloads.traces import read_trace

DEFAULT_ARMS = ("none", "static:3", "schedule", "cadence:48@3", "bandit")
"""`cadence` at Aurora's shortest interval: at its usual 400 requests a short run would never see it publish."""
MAX_K = 5
MAX_TEMPERATURE = 2.0
UTILISATION = 0.25
"""Offered load where none is given: share of what the server does without speculation at full concurrency. Drafts are
for small batches; where servers queue, no mean foretells how long (docs/live.md)."""

SECONDS = 30.0
"""Length of a cell where neither a time nor a number of requests is given: the same on any machine."""
LEAST_REQUESTS = 50
"""Of a cell whose length is given in seconds."""
MOST_REQUESTS = 100_000
"""Likewise."""
LEAST_OUTPUT = 8
"""Output tokens of an answer, so that there are decode steps to time."""


@dataclass(frozen=True)
class LiveJob:
    """What to run, resolved; nothing is started yet."""

    model: ModelSpec
    scenario: Scenario
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    requests: int
    """Of each arm and seed; with `seconds`, the most of them."""
    load: float | None
    """Factor on the scenario's arrival rate; None: by `utilisation`."""
    max_k: int
    utilisation: float = UTILISATION
    """Offered tokens as a share of what the server does without speculation at full concurrency."""
    trace: Path | None = None
    """Supplies arrivals and labels."""
    prompts: Path | None = None
    """A file of the user's own; None: generated texts."""
    output_tokens: int = OUTPUT_TOKENS
    """Most of an answer."""
    temperature: float = 0.0
    """0: greedy; else answers are sampled, and no arm says what another says."""
    placement: Placement = ON_CPU
    seconds: float | None = None
    """Run as many requests as arrive in this time, once the rate is known; None: `requests` of them."""


def prepare(
    scenario: Scenario,
    *,
    model: str,
    policies: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    requests: int | None = None,
    seconds: float | None = None,
    load: float | None = None,
    utilisation: float | None = None,
    max_k: int | None = None,
    trace: Path | None = None,
    prompts: Path | None = None,
    output_tokens: int | None = None,
    temperature: float = 0.0,
    trainer_device: str | None = None,
) -> LiveJob:
    """Fill in defaults and refuse, in one sentence, what could not run; nothing is started yet."""
    spec = model_spec(model)
    if missing := missing_parts(spec):
        raise MissingPart(f"{model} cannot be served here: " + "; ".join(missing))
    given = scenario.model_fields_set
    own = tuple(arm for arm in scenario.arms if not make(arm).needs_truth) if "arms" in given else ()
    arms = tuple(policies) or own or DEFAULT_ARMS
    max_k = max_k or (scenario.max_k if "max_k" in given else MAX_K)
    if doubled := [a for a in arms if arms.count(a) > 1]:
        raise InputError(f"policy {doubled[0]!r} is given more than once; each arm must be different")
    for arm in arms:
        check_arm(arm, max_k)
    placement = place(spec, len(server_kinds(arms)), trainer_device)
    scenario = _charged(scenario, placement)
    if scenario.verifier_updates and spec.successor is None:
        raise InputError(
            f"scenario {scenario.name!r} updates the verifier, but model {model!r} has no successor; "
            "a folder of yours may hold one in successor/"
        )
    _check_rate(load, utilisation)
    _check_length(requests, seconds)
    if requests is None and seconds is None:
        seconds = SECONDS
    total = requests or MOST_REQUESTS
    output_tokens = OUTPUT_TOKENS if output_tokens is None else output_tokens
    if not LEAST_OUTPUT <= output_tokens < spec.max_model_len:
        raise InputError(
            f"output tokens is {output_tokens}; it must be at least {LEAST_OUTPUT}, and the context of {model} holds "
            f"{spec.max_model_len} with the prompt"
        )
    if not 0.0 <= temperature <= MAX_TEMPERATURE:
        raise InputError(f"temperature is {temperature}; it must be within 0..{MAX_TEMPERATURE:g}")
    if trace is not None:
        total = min(total, sum(1 for _ in islice(read_trace(trace), total)))
    job = LiveJob(spec, scenario, arms, tuple(seeds), total, load, max_k, utilisation or UTILISATION,
                  trace, prompts, output_tokens, temperature, placement, seconds)  # fmt: skip
    _check_texts(job)
    return job


def server_kinds(arms: Sequence[str]) -> list[bool]:
    """Whether each server that these arms need has a drafter."""
    return sorted({make(arm).uses_drafter for arm in arms})


def _charged(scenario: Scenario, placement: Placement) -> Scenario:
    """On a machine with GPUs the trainer costs one where it has it to itself, and nothing elsewhere; without GPUs, what
    the scenario says."""
    if placement.share is None:
        return scenario
    trainer = scenario.trainer.model_copy(update={"own_accelerator": placement.own_gpu, "interference": 1.0})
    return scenario.model_copy(update={"trainer": trainer})


def _check_rate(load: float | None, utilisation: float | None) -> None:
    if load is not None and not load > 0:
        raise InputError(f"load is {load}; a factor on arrival rates must be above 0")
    if utilisation is not None and not utilisation > 0:
        raise InputError(f"utilisation is {utilisation}; a share of the server's capacity must be above 0")
    if load is not None and utilisation is not None:
        raise InputError("load and utilisation both set the arrival rate; give one of them")


def _check_length(requests: int | None, seconds: float | None) -> None:
    if requests is not None and requests < 1:
        raise InputError(f"requests is {requests}; run at least 1")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise InputError(f"seconds is {seconds}; the time of a cell must be above 0")
    if requests is not None and seconds is not None:
        raise InputError("requests and seconds both set how long a cell lasts; give one of them")


def _check_texts(job: LiveJob) -> None:
    """InputError where a domain has nothing to say."""
    domains = set(job.scenario.domains())
    if job.trace is not None:
        for seed in job.seeds:
            rows = apply_trace(job.scenario, read_trace(job.trace, seed=seed), seed, job.requests)
            domains |= {r.domain for r in islice(rows, job.requests)}
    if job.prompts is not None:
        check_covers(read_prompts(job.prompts), sorted(domains), job.prompts)
        return
    for name in sorted(domains):
        text_domain(name)


def check_arm(arm: str, max_k: int) -> None:
    """InputError for a policy that no live server can run."""
    policy = make(arm)
    if policy.needs_truth:
        raise InputError(f"policy {arm!r} needs the simulator's truth; no live server can tell it")
    from harness.speculator.settings import LearnerSettings, learner

    if not policy.uses_drafter:
        return
    settings = learner(policy.learner)
    if settings.drafter != LearnerSettings().drafter:
        raise InputError(
            f"policy {arm!r} names a drafter of its own, {settings.drafter!r}; a live server has the one of its model: "
            "--model TARGET,DRAFTER"
        )
    if settings.objectives.get("policy_gradient"):
        raise InputError(
            f"policy {arm!r} learns by policy gradient, which needs the probability of each draft; vLLM's greedy "
            "drafting does not tell it, so it runs in the simulator only"
        )
    policy.reset(PolicyContext(max_k, 1, lambda _: 1.0, (0.5,)))


__all__ = ["DEFAULT_ARMS", "LiveJob", "check_arm", "prepare", "server_kinds"]
