"""`ppo`: K as proximal policy optimisation learned it in the simulator; the rest is `bandit`'s.

`specdrift train-policy` learns it (`harness/sim/lesson.py`, environment `harness/sim/environment.py`); here it only
runs. K is drawn at every tick, as it was while it was learned: what keeps it looking at a K that it does not believe
in is a part of what was learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from harness.contract import Plan
from harness.policy.base import PolicyContext
from harness.policy.network import Network, load
from harness.policy.steered import Steered
from harness.rng import stream

SHIPPED = Path(__file__).parent / "ppo.safetensors"
"""What `ppo` means without a file."""


class Ppo(Steered):
    """`ppo` runs the network that comes with this package, `ppo:FILE` one of `specdrift train-policy`."""

    argument: ClassVar[str] = "FILE"

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    @classmethod
    def from_argument(cls, argument: str) -> Ppo:
        return cls(load(Path(argument) if argument else SHIPPED))

    def reset(self, context: PolicyContext) -> Plan:
        self._draws = stream(context.seed, "policy", "ppo")
        return super().reset(context)

    def steer(self, features: np.ndarray, most: int) -> tuple[int, float]:
        return self._network.draw(features, most, self._draws)
