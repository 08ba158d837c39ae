"""`specdrift train-policy`: what to learn on, learned by proximal policy optimisation, kept as a policy file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError, require
from harness.policy.network import save
from harness.provenance import provenance
from harness.sim.cell import Cell
from workloads.scenario import load_scenario

DEFAULT_SCENARIOS = (
    "domain-shift",
    "recurring",
    "load-swing",
    "verifier-update",
    "mixed-tenants",
    "day-zero",
)
"""Learned on unless a scenario is named; the others are left for looking at what was learned."""

DEFAULT_LATENCIES = (None, "roofline:h100:llama3-8b", "roofline:b200:llama3-8b", "roofline:l40s:qwen3-8b")
"""None: the scenario's own."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What to learn on, and for how long."""

    scenarios: tuple[str, ...] = DEFAULT_SCENARIOS
    latencies: tuple[str | None, ...] = DEFAULT_LATENCIES
    requests: int | None = 4000
    """Requests of an episode; None: as many as the scenario has."""
    ticks: int = 400_000
    """Rounded up to whole rollouts of all processes."""
    seed: int = 0
    processes: int = 2

    def cells(self) -> tuple[Cell, ...]:
        """One cell for each scenario on each latency model."""
        return tuple(
            Cell(
                scenario=scenario,
                policy="ppo",
                seed=self.seed,
                latency=latency or scenario.latency,
                requests=min(self.requests or scenario.requests, scenario.requests),
            )
            for scenario in map(load_scenario, self.scenarios)
            for latency in self.latencies
        )

    def described(self) -> dict[str, Any]:
        return {
            "scenarios": list(self.scenarios),
            "latencies": [latency or "the scenario's own" for latency in self.latencies],
            "requests": self.requests,
            "ticks": self.ticks,
            "seed": self.seed,
            "processes": self.processes,
        }


def learn(lesson: Lesson, out: Path, on_tick: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Learn, write the policy file `out`, and return what it says of itself.

    InputError for what could not be simulated, before anything starts; MissingPart without the extra `rl`.
    """
    if out.exists():
        raise InputError(f"{out} is there already; give --out another name")
    require("rl", "torch", "gymnasium", "stable_baselines3", "greenlet")
    from harness.sim.environment import SpeculationEnv
    from harness.sim.ppo import PpoLearner

    cells = lesson.cells()
    for cell in cells:
        SpeculationEnv([cell]).reset(seed=lesson.seed)
    with closing(PpoLearner(cells, lesson.seed, lesson.processes)) as learner:
        curve = learner.learn(
            lesson.ticks, lambda done: on_tick("learning", min(done, lesson.ticks), lesson.ticks)
        )
    made = {
        key: value for key, value in provenance().items() if key in ("time_utc", "command", "packages", "git")
    }
    learned = {**lesson.described(), "ticks": curve[-1]["ticks"], "curve": curve, "provenance": made}
    save(out, learner.layers(), learned)
    return learned
