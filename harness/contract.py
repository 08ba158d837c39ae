"""The one language of all parts: what arrives, what a policy sees, what it answers, what is recorded.

Units: seconds, tokens and plain counts. *Acceptance length* always includes the bonus token.
Nothing here knows whether the world is the simulator or a live server; that is the point.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

UNKNOWN = "unknown"
"""Domain or tenant of a request whose client sent no label."""

TRAINED = "trained"
STATIC = "static"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrives. `output_tokens` is the world's knowledge: no policy ever sees it."""

    request_id: int
    arrival: float
    """Seconds since the run began, >= 0."""
    prompt_tokens: int
    output_tokens: int
    """Tokens the request will generate (its end is the world's secret until it happens), >= 1."""
    domain: str = UNKNOWN
    tenant: str = UNKNOWN
    prefix_hashes: tuple[int, ...] = ()
    """Ids of the prompt's prefix blocks (Mooncake: 512 tokens each); equal ids share KV."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.arrival) and self.arrival >= 0):
            raise ValueError(f"arrival is {self.arrival}; it must be finite and not negative")
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError(
                f"request {self.request_id} has {self.prompt_tokens} prompt and {self.output_tokens} "
                "output tokens; both must be at least 1"
            )


@dataclass(frozen=True, slots=True)
class Slo:
    """What a tenant was promised. A request meets it when both of its times are within."""

    ttft: float = math.inf
    """Seconds to the first token."""
    tpot: float = math.inf
    """Mean seconds per output token after the first."""

    def met(self, ttft: float, tpot: float) -> bool:
        return ttft <= self.ttft and tpot <= self.tpot


# --- what a policy sees -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PositionCounts:
    """Per draft position i (0-based): drafts offered at i, and of those accepted at i.

    A verify step with K drafts offers positions 0..K-1 up to and including the first rejection:
    a position after a rejection was never put to the target, so it is not counted as offered
    (censored, not failed). `accepted[i] / offered[i]` therefore estimates the conditional
    acceptance (hazard) at i without bias under a changing K.
    """

    offered: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.offered) != len(self.accepted):
            raise ValueError(f"offered has {len(self.offered)} positions, accepted {len(self.accepted)}")
        if any(a > o for o, a in zip(self.offered, self.accepted, strict=True)):
            raise ValueError(f"accepted {self.accepted} exceeds offered {self.offered}")


@dataclass(frozen=True, slots=True)
class StepLatency:
    """Measured steps of one kind since the last tick."""

    batch: int
    """Decoding sequences in the step."""
    k: int
    """Draft tokens verified per sequence."""
    steps: int
    seconds: float
    """Total over the steps."""
    tokens: int
    """Total output tokens of the steps."""
    drafted: int | None = None
    """Draft tokens proposed per sequence for the step after, where that is another number than `k` (an engine drafts
    at the end of a step): their time is then not what K = `k` costs. None: `k` as well."""


@dataclass(frozen=True, slots=True)
class Swap:
    """One attempt to put new drafter weights into service."""

    time: float
    version: int
    stall: float
    """Seconds in which no step ran because of it."""
    ok: bool = True


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What the trainer itself can measure; held-out figures come from recent traffic it did not train on."""

    alive: bool = False
    busy_seconds: float = 0.0
    """Seconds it has worked so far; 0 after steps: it does not tell."""
    steps: int = 0
    samples: int = 0
    shifts: int = 0
    """Shifts of the traffic that the learner has noticed in its traces."""
    dropped: int = 0
    """Traces lost because the buffer was full."""
    candidate: int | None = None
    """Number of the candidate that is ready to publish; None without one."""
    candidate_samples: int = 0
    """Training samples the candidate saw beyond the serving version."""
    quarantined: int = 0
    """Candidates refused because they were broken or credibly worse for some domain or tenant."""
    heldout_serving: Mapping[str, float] = field(default_factory=dict)
    """Held-out acceptance length of the serving drafter, per domain."""
    heldout_candidate: Mapping[str, float] = field(default_factory=dict)
    heldout_static: Mapping[str, float] = field(default_factory=dict)
    heldout_samples: Mapping[str, int] = field(default_factory=dict)
    """Verify steps behind each held-out estimate: its noise."""


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a policy may know at a control tick. Counts are since the last tick."""

    time: float
    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    """Share of KV blocks in use, 0..1."""
    mean_context: float = 0.0
    """Mean tokens of context of the running sequences."""
    engine_steps: int = 0
    steps: tuple[StepLatency, ...] = ()
    """Decode-only steps by (batch, K); a step that also carried prefill tokens is left out."""
    tokens: int = 0
    """Output tokens of all steps."""
    prefill_tokens: int = 0
    """Prompt tokens computed: they share each step's token budget with the drafts."""
    finished: int = 0
    positions: Mapping[tuple[str, str], PositionCounts] = field(default_factory=dict)
    """Offered and accepted per (domain, tenant); `UNKNOWN` where no label came with the request."""
    drafter: str = STATIC
    drafter_version: int = 0
    drafter_age: float = 0.0
    """Seconds since the serving weights were swapped in."""
    verifier_version: int = 0
    trainer: TrainerState = field(default_factory=TrainerState)
    last_swap: Swap | None = None
    slo_attainment: float = 1.0
    """Share of the requests finished since the last tick that met their SLO; 1 when none finished."""

    @property
    def batch(self) -> float:
        """Mean decoding sequences per decode-only step of this tick; `running` when there was none."""
        steps = sum(s.steps for s in self.steps)
        return sum(s.batch * s.steps for s in self.steps) / steps if steps else float(self.running)


# --- what it answers --------------------------------------------------------------------------

KSchedule = tuple[tuple[int, int, int], ...]
"""((lo, hi, K), ...), batch sizes inclusive, first lo = 1, no gaps: vLLM's
`num_speculative_tokens_per_batch_size`."""


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """What the trainer shall do until the next tick."""

    on: bool = False
    objectives: Mapping[str, float] = field(default_factory=dict)
    """Weight of each objective by name; empty means the trainer's default."""
    domains: Mapping[str, float] = field(default_factory=dict)
    """Sampling weight of each domain; empty means as they arrive."""
    budget: float = 1.0
    """Share of the trainer's time it may use, 0..1."""
    sample: float = 1.0
    """Share of requests whose traces the server gives to the trainer, 0..1."""

    def __post_init__(self) -> None:
        for name in ("budget", "sample"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"train.{name} is {getattr(self, name)}; it must lie in 0..1")


@dataclass(frozen=True, slots=True)
class Plan:
    """A policy's answer, in force until the next one."""

    k_by_batch: KSchedule
    drafter: str = TRAINED
    """`trained` (newest published), `static`, or `version:N` (rollback)."""
    train: TrainPlan = field(default_factory=TrainPlan)
    publish: bool = False
    """Swap the ready candidate in now."""
    propensity: float = 1.0
    """Probability with which the policy chose this plan, for offline evaluation."""

    def __post_init__(self) -> None:
        check_schedule(self.k_by_batch)
        name, _, version = self.drafter.partition(":")
        if self.drafter not in (TRAINED, STATIC) and not (name == "version" and version.isdigit()):
            raise ValueError(f"drafter is {self.drafter!r}; it must be 'trained', 'static' or 'version:N'")
        if not 0.0 < self.propensity <= 1.0:
            raise ValueError(f"propensity is {self.propensity}; it must lie in (0, 1]")

    def k(self, batch: int) -> int:
        """Draft tokens at this batch size; the last range extends upwards."""
        for _, hi, k in self.k_by_batch:
            if batch <= hi:
                return k
        return self.k_by_batch[-1][2]

    @property
    def max_k(self) -> int:
        return max(k for _, _, k in self.k_by_batch)


def check_schedule(schedule: KSchedule) -> None:
    """Raise ValueError unless `schedule` covers batch sizes from 1 without gap or overlap."""
    expected = 1
    for lo, hi, k in schedule:
        if lo != expected or hi < lo or k < 0:
            raise ValueError(
                f"k_by_batch has ({lo}, {hi}, {k}) where a range starting at {expected} with K >= 0 must stand"
            )
        expected = hi + 1
    if not schedule:
        raise ValueError("k_by_batch is empty; give at least one (lo, hi, K)")


def constant_k(k: int, max_batch: int = 1 << 20) -> KSchedule:
    """The schedule with the same K at every batch size."""
    return ((1, max_batch, k),)


# --- what is recorded -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One engine step."""

    start: float
    seconds: float
    batch: int
    """Decoding sequences."""
    k: int
    prefill_tokens: int
    output_tokens: int
    offered: int
    """Draft positions put to the target (see PositionCounts)."""
    accepted: int
    running: int
    waiting: int
    kv_blocks: int
    drafter_version: int
    verifier_version: int


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request's life. Times are seconds since the run began; NaN where it never happened."""

    request_id: int
    domain: str
    tenant: str
    arrival: float
    scheduled: float
    first_token: float
    finish: float
    prompt_tokens: int
    output_tokens: int
    """Tokens produced."""
    cached_tokens: int
    """Prompt tokens found in the prefix cache."""
    preemptions: int
    verify_steps: int
    """Steps that verified at least one draft for this request."""
    draft_tokens: int
    """Drafts verified for it, whether or not an earlier one in the same step had failed."""
    accepted_tokens: int
    slo_met: bool
    status: str
    """`finished`, `rejected` (could never fit), `failed`, or `unfinished` at the end of the run."""


@dataclass(frozen=True, slots=True)
class VerifyRecord:
    """One verify step of one request."""

    request_id: int
    at: int
    """Output tokens generated before this step."""
    k: int
    """Drafts verified, >= 1, whether or not an earlier one of them failed."""
    accepted: int
    """Drafts accepted, 0..k; fewer than k: the next one failed, whatever K would have been."""
    drafter_version: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `tick`, `trainer_state`, `publish`, `swap`, `verifier_update`, `shift`, `fault`, ..."""

    time: float
    kind: str
    detail: Mapping[str, Any] = field(default_factory=dict)


def to_json(value: Any) -> str:
    """Compact JSON of a contract dataclass, or of plain data.

    Mapping keys that are tuples join with '|'; numbers that are not finite become null.
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)  # plain already, as most is
    except (TypeError, ValueError):
        return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {"|".join(k) if isinstance(k, tuple) else str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
