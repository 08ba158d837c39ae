"""Proximal policy optimisation (arXiv 1707.06347) in the simulator, by Stable-Baselines3.

The network is that of `harness/policy/network.py`: tanh layers beside a straight path from the features to the
logits. The straight path begins as the model's own answer (the K of most expected tokens per second), so learning
starts from that and not from noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor, VecNormalize
from torch import nn

from harness.policy.steered import FEATURES, MOST_K
from harness.sim.cell import Cell
from harness.sim.environment import SpeculationEnv

WIDTH = 64
BELIEF = 150.0
"""Logits of K per unit of log speed at the start: a K that is 1% faster is 4.5 times as likely."""

RATE = 2e-4
"""Of learning, at the start; it falls to 0."""

GAMMA = 0.9
"""Discount of a tick: K shows its worth at once, what it finds out about deeper positions within some ten ticks."""

BATCH = 1024
"""Ticks of a step of learning: the start is near the best, and small batches would walk away from it at random."""

ROLLOUT = 1024
"""Ticks of each process between two updates."""


class _Straight(nn.Module):
    """Layers for actor and critic; the actor's features go on beside what its layers say."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = WIDTH + size, WIDTH
        self.actor, self.critic = _layers(size), _layers(size)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.actor(features), features], dim=-1)

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        return self.critic(features)


def _layers(size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())


class _StraightPolicy(ActorCriticPolicy):
    """Stable-Baselines3's actor and critic with `_Straight` inside."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor: Any = _Straight(self.features_dim)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        super()._build(lr_schedule)
        with torch.no_grad():
            logits: Any = self.action_net
            logits.weight.zero_()
            logits.bias.zero_()
            for k in range(1, MOST_K + 1):
                logits.weight[k, WIDTH + FEATURES.index(f"worth of K={k}")] = BELIEF


class PpoLearner:
    """Learns on episodes of `cells`, in processes of its own."""

    def __init__(self, cells: Sequence[Cell], seed: int, processes: int) -> None:
        torch.set_num_threads(1)  # the network is small and the processes have the cores
        make: list[Any] = [partial(SpeculationEnv, cells)] * processes
        simulators = VecMonitor(
            SubprocVecEnv(make, start_method="spawn"), info_keywords=("cell", "time_per_token")
        )
        self._environments = VecNormalize(simulators, norm_obs=False, gamma=GAMMA)
        self._model = PPO(
            _StraightPolicy,
            self._environments,
            n_steps=ROLLOUT,
            batch_size=BATCH,
            n_epochs=4,
            gamma=GAMMA,
            gae_lambda=0.9,
            learning_rate=_falling(RATE),
            ent_coef=0.0,
            target_kl=0.01,
            seed=seed,
            device="cpu",
        )

    def learn(self, ticks: int, on_tick: Callable[[int], None]) -> list[dict[str, Any]]:
        """Learn for `ticks`; returns, by update, how much faster its episodes were than the first of their cell
        (None where none ended)."""
        follower = _Follower(on_tick)
        self._model.learn(ticks, callback=follower)
        return follower.curve

    def close(self) -> None:
        """End the processes."""
        self._environments.close()

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(weight, bias) of the actor's layers and of its logits."""
        policy: Any = self._model.policy
        linear = [m for m in policy.mlp_extractor.actor if isinstance(m, nn.Linear)] + [policy.action_net]
        return [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in linear]


def _falling(rate: float) -> Callable[[float], float]:
    return lambda left: rate * left


class _Follower(BaseCallback):
    """Tells how far learning has come, and keeps its curve."""

    def __init__(self, on_tick: Callable[[int], None]) -> None:
        super().__init__()
        self._on_tick = on_tick
        self._first: dict[int, float] = {}
        self._faster: list[float] = []
        self.curve: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                time = info["time_per_token"]
                self._faster.append(math.log(self._first.setdefault(info["cell"], time) / time))
        return True

    def _on_rollout_end(self) -> None:
        self._on_tick(self.num_timesteps)
        speedup = math.exp(float(np.mean(self._faster))) if self._faster else None
        self.curve.append({"ticks": self.num_timesteps, "episodes": len(self._faster), "speedup": speedup})
        self._faster = []
