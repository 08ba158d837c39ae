"""Policies: how many draft tokens, which drafter, when to train, when to publish.

Start with `base.py` (what a policy is given and must answer), `schedule.py` (the smallest one that
thinks), `bandit.py` (the default adaptive one, read top to bottom). `check.py` is the contract that every
policy must pass; `registry.py` gives names to them. docs/policies.md tells how to add one.
"""

from harness.policy.base import Policy, PolicyContext, Truth
from harness.policy.check import ContractBroken, check_policy
from harness.policy.registry import DEFAULT_ARMS, make, names, usage

__all__ = [
    "DEFAULT_ARMS",
    "ContractBroken",
    "Policy",
    "PolicyContext",
    "Truth",
    "check_policy",
    "make",
    "names",
    "usage",
]
