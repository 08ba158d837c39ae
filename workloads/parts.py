"""The parts of a scenario other than arrivals and mixture: each a small frozen table with its units.

Figures marked *assumed* are ours; the others carry their source. All times are seconds, all places in the
run are shares of its requests (0 the first, 1 the last), all sizes tokens, requests or bytes as named.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.contract import Slo
from harness.errors import UnknownName

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
Weights = Annotated[dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)]


class Part(BaseModel):
    """A frozen table of a scenario file. A key that it does not have is an error that names the nearest
    one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise UnknownName("key", str(key), cls.model_fields)
        return data


def check_weights(weights: Weights, what: str) -> None:
    """Raise ValueError unless some weight is positive."""
    if sum(weights.values()) <= 0:
        raise ValueError(f"the weights of {what} are all 0; give at least one a positive weight")


class Tenant(Part):
    """One customer of the server: its share of requests, what it was promised, what it sends."""

    name: Name
    """Its name in reports and observations."""
    share: Positive = 1.0
    """Weight of its requests among all tenants'; only the ratios count."""
    ttft: Positive | None = None
    """Promised seconds to the first token; absent means no promise."""
    tpot: Positive | None = None
    """Promised mean seconds per output token after the first; absent means no promise."""
    domains: Weights | None = None
    """Its own weights of domains, the same throughout the run; absent means the scenario's mixture."""

    @property
    def slo(self) -> Slo:
        """Its promise in the form of the contract."""
        given = {"ttft": self.ttft, "tpot": self.tpot}
        return Slo(**{name: value for name, value in given.items() if value is not None})


class VerifierUpdate(Part):
    """The served model is fine-tuned and swapped; the drafter was trained against its predecessor."""

    at: Share
    """Share of the run's requests that have arrived when it happens."""
    stall: Seconds
    """Seconds in which no step runs."""
    retained: Share
    """Share of the accepted draft tokens (acceptance length minus the bonus token) that a drafter trained
    against the predecessor keeps: 1 changes nothing, 0 makes every drafter useless."""
    kv_invalid: bool = True
    """Whether the KV cache is lost, so that running requests are recomputed and the prefix cache is empty."""


class Trainer(Part):
    """The process that learns the drafter. One *sample* is the trace of one finished request."""

    on: bool = True
    """Whether there is a trainer at all; without one no policy can publish."""
    own_accelerator: bool = True
    """Whether it runs on its own accelerator; otherwise it shares the server's."""
    interference: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    """Factor on the time of an engine step while a trainer that shares the accelerator trains. (assumed; at 1, a
    latency model recorded beside such a trainer says)"""
    servers: Count = 1
    """Servers that publish from this trainer; each is charged its part of the trainer's own accelerator."""
    samples_per_second: Positive = 40.0
    """Speed of training at full budget. Assumed: a one-layer EAGLE-3 head (0.35 G parameters with its
    vocabulary head) over 7 unrolled draft steps costs 15 GFLOP a token, 500 tokens a sample, at 300
    TFLOP/s."""
    samples_per_step: Count = 8
    """Samples of one optimiser step (Aurora's released code: 8)."""
    buffer_requests: Count | None = None
    """Most traces the buffer holds; absent means that only `buffer_bytes` bounds it."""
    buffer_bytes: Count = 16 * 2**30
    """Most bytes of traces the buffer holds; what does not fit is dropped and counted."""
    bytes_per_token: Count = 32 * 1024
    """Bytes of one traced token: 3 + 1 hidden states of 4,096 bfloat16 (Aurora, 8B target)."""

    @model_validator(mode="after")
    def _interference_needs_sharing(self) -> Trainer:
        if self.own_accelerator and self.interference != 1.0:
            raise ValueError(
                f"interference is {self.interference} but the trainer has its own accelerator; "
                "leave it at 1 or set own_accelerator = false"
            )
        return self

    @property
    def price(self) -> float:
        """Accelerators of a trainer's own that a run is charged for, per serving one: its part of a shared trainer."""
        return 1.0 / self.servers if self.on and self.own_accelerator else 0.0


class Swap(Part):
    """What it costs to put new drafter weights into service."""

    transfer: Seconds = 0.5
    """Seconds from the decision until the weights lie ready beside the old ones; the server goes on
    meanwhile. Assumed: 0.8 GB in bfloat16 over a network of 25 Gbit/s takes 0.26 s, and the checks as long
    again."""
    stall: Seconds = 0.05
    """Seconds in which no step runs while they are exchanged. Assumed for an exchange in place; Aurora's
    released server drains, reloads and captures its graphs again, which takes far longer."""


class Engine(Part):
    """Settings of the engine that the scenario changes; an absent one is left at the engine's default."""

    max_num_seqs: Count | None = None
    """Most sequences that run at once."""
    max_num_batched_tokens: Count | None = None
    """Most tokens in one step."""
    kv_tokens: Count | None = None
    """Tokens that the KV cache holds."""
    prefix_caching: bool | None = None
    """Whether KV blocks of equal prompt prefixes are shared."""
    async_scheduling: bool | None = None
    """Whether the next step is scheduled while the present one runs."""
    tensor_parallel: Count | None = None
    """Accelerators over which the target is split."""

    def overrides(self) -> dict[str, int | bool]:
        """The settings that are given."""
        return self.model_dump(exclude_none=True)


class Fault(Part):
    """Something that goes wrong once."""

    kind: Literal["trainer_dies", "swap_fails", "corrupt_candidate"]
    """`trainer_dies`: it stops for good. `swap_fails`: the next publication does not arrive, the old
    weights go on serving. `corrupt_candidate`: the next candidate's weights are broken."""
    at: Share
    """Share of the run's requests that have arrived when it happens."""
