"""The moving average of a drafter's weights, of which candidates are made.

Steps of few traces at a high rate leave the weights shaking around what they have learnt; their average over the
last steps accepts more than any of them (Polyak and Juditsky 1992), and costs one pass over the weights a step.
"""

from __future__ import annotations

import torch

from harness.speculator.drafters.base import Drafter


class Average:
    """avg <- decay * avg + (1 - decay) * w after each step; decay 0 is the weights themselves."""

    def __init__(self, drafter: Drafter, decay: float) -> None:
        self._drafter = drafter
        self._decay = decay
        self._of: dict[torch.nn.Parameter, torch.Tensor] = {}
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Forget: what the drafter is now."""
        self._of = {p: p.detach().clone() for p in self._drafter.parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """After an optimiser step."""
        torch._foreach_lerp_(list(self._of.values()), list(self._of), 1.0 - self._decay)

    def of(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """The average of one parameter: to be read, or changed in place."""
        return self._of[parameter]

    def weights(self) -> dict[str, torch.Tensor]:
        """By name, not copied."""
        return {name: self._of[p] for name, p in self._drafter.named_parameters()}
