"""What a request tells the engine about itself: one spelling for the client that writes it and the scheduler
that reads it.

It travels as `vllm_xargs` in the body and arrives as `SamplingParams.extra_args`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.contract import UNKNOWN, Request

ID = "specdrift_id"
DOMAIN = "specdrift_domain"
TENANT = "specdrift_tenant"
TRACE = "specdrift_trace"

FOREIGN = -1
"""Request id of a client that is not ours."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The defaults are those of a client that sent none: it is served and learned from like any other."""

    domain: str = UNKNOWN
    tenant: str = UNKNOWN
    trace: bool = True
    """Whether the learner may see it."""
    request_id: int = FOREIGN


def labels(request: Request, trace: bool = True) -> dict[str, str | int]:
    """The `vllm_xargs` of a request of ours."""
    return {ID: request.request_id, DOMAIN: request.domain, TENANT: request.tenant, TRACE: int(trace)}


def read_labels(extra_args: Mapping[str, Any] | None) -> Labels:
    """The labels among a request's `extra_args`. Never fails: what is missing or odd keeps its default."""
    if not extra_args:
        return Labels()
    return Labels(
        domain=_name(extra_args.get(DOMAIN)),
        tenant=_name(extra_args.get(TENANT)),
        trace=extra_args.get(TRACE, 1) not in (0, "0", "false"),
        request_id=_number(extra_args.get(ID)),
    )


def _name(value: Any) -> str:
    return value if isinstance(value, str) and value else UNKNOWN


def _number(value: Any) -> int:
    try:
        return max(int(value), FOREIGN)
    except (TypeError, ValueError, OverflowError):
        return FOREIGN
