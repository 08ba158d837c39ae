"""What every policy is: told once about the deployment, then asked for a `Plan` at every control tick.

A policy sees `Observation`s and its `PolicyContext`, nothing else. Only an oracle (`needs_truth`)
may also ask for the `Truth`, which only a simulator can tell.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import numpy as np

from harness.contract import Observation, Plan, Slo
from harness.errors import InputError
from harness.latency.shape import StepShape

HAZARD_FLOOR = 0.005
"""Hazards are kept in [HAZARD_FLOOR, 1 - HAZARD_FLOOR]: a log-odds must exist."""


@dataclass(frozen=True)
class PolicyContext:
    """What is known about a deployment before the first request. Times in seconds, lengths in tokens."""

    max_k: int
    """Largest K the engine was built for, >= 0."""
    max_batch: int
    """Most sequences that decode in one step, >= 1."""
    predict: Callable[[StepShape], float]
    """The latency model: seconds of one engine step."""
    offline_hazards: tuple[float, ...]
    """Conditional acceptance by position of the static drafter, measured offline on the traffic known
    before the run. Shorter than `max_k`: the last value stands for all deeper positions."""
    mean_context: float = 1024.0
    """Typical tokens of context of a decoding sequence."""
    trainer: bool = False
    """Whether a trainer learns from this server's traces."""
    trainer_accelerators: float = 0.0
    """Accelerators held for training per serving accelerator, this server's part of a shared trainer: the price
    of a trainer second in server seconds. 0: it works on the server's own."""
    swap_stall: float = 0.5
    """Expected seconds without a step when drafter weights are swapped."""
    slo: Mapping[str, Slo] = field(default_factory=dict)
    """Promise by tenant. For policies that trade tenants off; none of the built-in ones needs it."""
    seed: int = 0
    publish_requests: int = 400
    """Finished requests between two publications of a fixed-cadence policy (Aurora's examples: 400)."""
    typical_batch: int = 32
    """Batch size expected before the run; what a content-only controller tunes for."""
    heldout_k: int | None = None
    """K at which the trainer's held-out acceptance lengths are measured; None: `max_k`."""
    price_spread: float = 1.0
    """How far off the latency model's price of speculation may be here: standard deviation of a factor on what
    drafts add to a step. 1: a model of another machine; far less where it was measured on this engine."""

    def __post_init__(self) -> None:
        if self.max_k < 0 or self.max_batch < 1:
            raise InputError(
                f"max_k is {self.max_k} and max_batch {self.max_batch}; they must be >= 0 and >= 1"
            )
        if self.max_k > 0 and not self.offline_hazards:
            raise InputError(
                f"offline_hazards is empty; with max_k {self.max_k} at least one value is needed"
            )
        if not all(0.0 <= h <= 1.0 for h in self.offline_hazards):
            raise InputError(f"offline_hazards has a value outside 0..1: {self.offline_hazards}")
        if not (math.isfinite(self.mean_context) and self.mean_context >= 0):
            raise InputError(f"mean_context is {self.mean_context}; it must be finite and not negative")
        if not (math.isfinite(self.swap_stall) and self.swap_stall >= 0):
            raise InputError(f"swap_stall is {self.swap_stall}; it must be finite and not negative")
        if not (math.isfinite(self.trainer_accelerators) and self.trainer_accelerators >= 0):
            raise InputError(
                f"trainer_accelerators is {self.trainer_accelerators}; it must be finite and not negative"
            )
        if not (math.isfinite(self.price_spread) and self.price_spread > 0):
            raise InputError(f"price_spread is {self.price_spread}; it must be finite and above 0")
        if self.publish_requests < 1 or self.typical_batch < 1:
            raise InputError(
                f"publish_requests is {self.publish_requests} and typical_batch {self.typical_batch}; "
                "both must be at least 1"
            )
        if self.heldout_k is not None and self.heldout_k < 1:
            raise InputError(f"heldout_k is {self.heldout_k}; it must be at least 1")

    @property
    def hazards(self) -> np.ndarray:
        """`offline_hazards` as float64[max_k], padded with its last value and kept off 0 and 1."""
        given = list(self.offline_hazards[: self.max_k])
        given += [given[-1]] * (self.max_k - len(given)) if given else []
        return np.clip(np.array(given, dtype=np.float64), HAZARD_FLOOR, 1.0 - HAZARD_FLOOR)

    @property
    def reference_k(self) -> int:
        """The K of held-out acceptance lengths, within 0..max_k."""
        return self.max_k if self.heldout_k is None else min(self.heldout_k, self.max_k)


@dataclass(frozen=True)
class Truth:
    """What only the simulator knows. Each tuple holds one acceptance length per K = 0..max_k, the bonus
    token included, for the mix of domains that runs now."""

    acceptance_length: tuple[float, ...]
    """Under the serving drafter."""
    batch: int
    context: float
    candidate_acceptance_length: tuple[float, ...] | None
    """Under the trainer's ready candidate; None when there is none."""
    static_acceptance_length: tuple[float, ...]
    trained_acceptance_length: tuple[float, ...] | None = None
    """Under the newest published weights, while others serve; None: not known or the same."""


P = TypeVar("P", bound="Policy")


class Policy(ABC):
    """One controller for one run. Constructors only store; `reset` begins, `decide` follows."""

    uses_drafter: ClassVar[bool] = True
    """False: the engine is started without a drafter at all (cheaper than K = 0 with one loaded)."""
    trains: ClassVar[bool] = True
    """False: it never trains, so a run of it needs no trainer and is charged for none."""
    needs_truth: ClassVar[bool] = False
    """True: only a simulator can run it; it calls `bind_truth` before `reset`."""
    learner: str = "default"
    """The named learner that it trains with where a real one does (`harness/speculator/learners.toml`)."""
    argument: ClassVar[str] = ""
    """What may follow the name in a specification, for messages: 'K', '[N][@K]', ''."""

    name: str = ""
    """The specification it was made from, for logs and reports."""

    @classmethod
    def from_argument(cls: type[P], argument: str) -> P:
        """The policy for the text after the colon, '' when there is none; InputError on nonsense.

        Only a class that names its `argument` is ever given one."""
        return cls()

    @abstractmethod
    def reset(self, context: PolicyContext) -> Plan:
        """Begin a run: the plan in force until the first tick. InputError when the context does not fit."""

    @abstractmethod
    def decide(self, observation: Observation) -> Plan:
        """The plan until the next tick. Never changes `observation`; publishes only a ready candidate."""

    def bind_truth(self, truth: Callable[[], Truth]) -> None:
        """Give an oracle its access to the simulator; InputError for any other policy."""
        raise InputError(f"policy {self.name or type(self).__name__!r} may not see the simulator's truth")


def check_k(k: int, max_k: int, who: str) -> int:
    """`k` when the engine allows it; InputError otherwise."""
    if k > max_k:
        raise InputError(f"{who} asks for K = {k}, but this engine allows at most {max_k}")
    return k


def whole_number(text: str, what: str, least: int) -> int:
    """`text` as an int >= `least`; InputError that says what is wrong."""
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise InputError(f"{what} is {text!r}; it must be a whole number of at least {least}")
    return int(text)
