"""The simulator as a Gymnasium environment: one control tick a step, in which a policy can learn K.

The agent is a steered bandit (`harness/policy/steered.py`): the environment hands out what it sees and takes K for the
coming tick; what happens between two ticks is `World`, unchanged. SimPy calls the policy, Gymnasium calls the
environment: a greenlet for the world turns the one into the other. How a tick is rewarded: `reward.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
from greenlet import getcurrent, greenlet

from harness.contract import Event, Observation, Plan
from harness.policy import PolicyContext, Truth
from harness.policy.steered import FEATURES, MOST_K, Steered
from harness.sim.cell import Cell
from harness.sim.engine import Labels
from harness.sim.parametric import build_parametric_world
from harness.sim.reward import Reward


class SpeculationEnv(gymnasium.Env[np.ndarray, np.int64]):
    """An episode is one run of one of `cells`, drawn anew at each reset, under a seed of its own."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.observation_space = gymnasium.spaces.Box(-5.0, 5.0, (len(FEATURES),), np.float32)
        self.action_space = gymnasium.spaces.Discrete(MOST_K + 1)
        self._cells = tuple(cells)
        self._world: greenlet | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; `options` may name a `cell` by index, whose own seed then counts."""
        super().reset(seed=seed)
        if options and "cell" in options:
            self._index = int(options["cell"])
            cell = self._cells[self._index]
        else:
            self._index = int(self.np_random.integers(len(self._cells)))
            cell = replace(self._cells[self._index], seed=int(self.np_random.integers(1 << 31)))
        self._meter, self._agent = _Meter(), _Agent()
        self._world = greenlet(build_parametric_world(cell, self._meter, self._agent).run)
        features: np.ndarray = self._world.switch()
        self._reward = Reward(self._agent.context)
        self._meter.take()  # of the plan that the agent did not choose
        return features, {}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Run at K = `action` (the engine's most where it allows less) to the next tick. Terminated when every request
        of the episode has ended; the info then tells its cell and the engine time per token, seconds."""
        assert self._world is not None, "reset comes first"
        features: np.ndarray | None = self._world.switch(int(action))
        reward = self._reward.of(self._meter.take(), self._agent.mean_context, self._agent.acceptance_length)
        if features is not None:
            return features, reward, False, False, {}
        self._world = None
        told = {"cell": self._index, "time_per_token": self._meter.time_per_token}
        return np.zeros(len(FEATURES), np.float32), reward, True, False, told


class _Agent(Steered):
    """Hands what it sees to the environment and waits for K.

    It asks for the truth for the sake of the reward; nothing of it is in the features."""

    needs_truth: ClassVar[bool] = True
    acceptance_length: tuple[float, ...]
    mean_context: float

    def bind_truth(self, truth: Callable[[], Truth]) -> None:
        self._truth = truth

    def reset(self, context: PolicyContext) -> Plan:
        self.context = context
        return super().reset(context)

    def decide(self, observation: Observation) -> Plan:
        self.acceptance_length = self._truth().acceptance_length
        self.mean_context = observation.mean_context
        return super().decide(observation)

    def steer(self, features: np.ndarray, most: int) -> tuple[int, float]:
        environment = getcurrent().parent
        assert environment is not None
        return min(environment.switch(features), most), 1.0


class _Meter:
    """A sink that keeps the steps of a tick, and adds up the time that sequences spent in the engine."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._tokens = self._seconds = 0.0

    def name(self, labels: Labels) -> None: ...

    def step_rows(self, rows: np.ndarray) -> None:
        self._rows.append(rows)
        self._tokens += float(rows["output_tokens"].sum())
        self._seconds += float((rows["seconds"] * rows["running"]).sum())

    def request_rows(self, rows: np.ndarray) -> None: ...

    def events(self, events: Sequence[Event]) -> None: ...

    def take(self) -> list[np.ndarray]:
        """Steps since the last call."""
        taken, self._rows = self._rows, []
        return taken

    @property
    def time_per_token(self) -> float:
        """Integral of the sequences in the engine over its steps, per output token, seconds."""
        return self._seconds / max(self._tokens, 1.0)
