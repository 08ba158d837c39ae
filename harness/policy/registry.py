"""Names to policies: the one place that lists them."""

from __future__ import annotations

from harness.errors import InputError, UnknownName
from harness.policy.bandit import Bandit
from harness.policy.base import Policy
from harness.policy.cadence import Cadence
from harness.policy.goodput import Goodput
from harness.policy.none import NoSpeculation
from harness.policy.oracle import Oracle, OracleContent, OracleLoad
from harness.policy.ppo import Ppo
from harness.policy.schedule import Schedule
from harness.policy.static import StaticK

_POLICIES: dict[str, type[Policy]] = {
    "none": NoSpeculation,
    "static": StaticK,
    "schedule": Schedule,
    "cadence": Cadence,
    "goodput": Goodput,
    "bandit": Bandit,
    "ppo": Ppo,
    "oracle": Oracle,
    "oracle-load": OracleLoad,
    "oracle-content": OracleContent,
}

DEFAULT_ARMS: tuple[str, ...] = ("none", "static:3", "schedule", "cadence", "goodput", "bandit", "oracle")
"""What `specdrift simulate` compares when no policy is named."""


def make(spec: str) -> Policy:
    """The policy for 'NAME' or 'NAME:ARGUMENT', such as 'bandit', 'static:3', 'cadence:400@5'.

    UnknownName for a name that is not registered, InputError for an argument that makes no sense.
    '+LEARNER' behind it names what it drafts and trains with: 'bandit+aurora', 'static:3+ngram'. Whether K
    fits the engine is checked at `reset`, whether there is such a learner where one is built.
    """
    chosen, plus, learner = spec.strip().partition("+")
    name, _, argument = chosen.partition(":")
    if name not in _POLICIES:
        raise UnknownName("policy", name, _POLICIES)
    if argument and not _POLICIES[name].argument:
        raise InputError(f"policy {name!r} takes no argument; {spec!r} gives it {argument!r}")
    policy = _POLICIES[name].from_argument(argument)
    policy.name = spec.strip()
    if plus:
        if not policy.uses_drafter:
            raise InputError(f"policy {name!r} has no drafter; {spec!r} gives it the learner {learner!r}")
        policy.learner = learner
    return policy


def names() -> tuple[str, ...]:
    """Registered names, sorted, without arguments."""
    return tuple(sorted(_POLICIES))


def usage() -> tuple[str, ...]:
    """How each policy is written, for help texts: 'static:K', 'cadence[:[N][@K]]', 'bandit', ..."""
    return tuple(f"{n}[:{p.argument}]" if p.argument else n for n, p in sorted(_POLICIES.items()))
