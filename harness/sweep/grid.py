"""A grid of simulations from a TOML file: what all points share, and what varies.

scenario = "domain-shift"
policies = ["static:3", "bandit"]
seeds = 3

[grid]
"arrivals.rate" = [5, 13, 26]                      # a key of the scenario, by its dotted path
latency = ["h100-llama3-8b", "roofline:a100:llama3-8b"]     # or an option of `specdrift simulate`
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from harness.errors import InputError, UnknownName
from harness.sim.job import DEFAULT_SCENARIO, DEFAULT_SEEDS, Job, prepare
from workloads.parts import Count, Name, Part
from workloads.scenario import Scenario, first_problem, load_scenario, scenario_from

Value = str | int | float | bool
MOST_POINTS = 10_000


class Options(Part):
    """What `specdrift simulate` may be told, under its names there."""

    scenario: Name = DEFAULT_SCENARIO
    latency: Name | None = None
    draft: Name | None = None
    policy_latency: Name | None = None
    acceptance: Name = "parametric"
    trace: Path | None = None
    requests: Count | None = None
    policies: tuple[Name, ...] = ()
    """Arms of every point; empty: the scenario's."""
    seeds: Count = DEFAULT_SEEDS
    seed: Annotated[int, Field(ge=0)] = 0
    """The first seed."""


class Sweep(Options):
    """The whole file."""

    grid: Annotated[dict[str, Annotated[tuple[Value, ...], Field(min_length=1)]], Field(min_length=1)]
    """Values of each key that varies: an option above but `policies`, or a dotted path in the scenario."""


SHARED = ("policies", "seeds", "seed")
"""Options that cannot vary: points would not be comparable."""


@dataclass(frozen=True, slots=True)
class Point:
    """One simulation of the grid."""

    name: str
    """Its number, as its directory is called."""
    settings: Mapping[str, Value]
    """The value of each key of the grid."""
    job: Job


def read_sweep(path: Path) -> Sweep:
    """The sweep of a TOML file; InputError for a file that is missing, not TOML, or breaks a rule."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"cannot read sweep file {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"sweep {path} is not valid TOML: {error}") from error
    try:
        return Sweep.model_validate(table)
    except ValidationError as error:
        raise InputError(f"sweep {path}: {first_problem(error)}") from error


def points_of(sweep: Sweep) -> list[Point]:
    """Every point, checked: nothing has run yet. InputError names the point that could not run."""
    keys, values = list(sweep.grid), list(sweep.grid.values())
    for key in keys:
        if key in SHARED or ("." not in key and key not in (*Options.model_fields, *Scenario.model_fields)):
            valid = set(Options.model_fields) | set(Scenario.model_fields)
            raise UnknownName("key of the grid", key, valid - set(SHARED) - {"name", "question", "arms"})
    combinations = list(itertools.product(*values))
    if len(combinations) > MOST_POINTS:
        raise InputError(f"the grid has {len(combinations):,} points; at most {MOST_POINTS:,} are run")
    width = len(str(len(combinations)))
    return [
        _point(sweep, f"{i:0{width}d}", dict(zip(keys, chosen, strict=True)))
        for i, chosen in enumerate(combinations, start=1)
    ]


def _point(sweep: Sweep, name: str, settings: dict[str, Value]) -> Point:
    told = ", ".join(f"{key} = {value}" for key, value in settings.items())
    options = {key: value for key, value in settings.items() if key in Options.model_fields}
    varied = {key: value for key, value in settings.items() if key not in options}
    try:
        chosen = Options.model_validate(sweep.model_dump(exclude={"grid"}) | options)
        if chosen.acceptance.startswith("replay"):
            raise InputError(
                f"acceptance {chosen.acceptance!r} brings a scenario of its own, which cannot be varied"
            )
        scenario = _with(load_scenario(chosen.scenario), varied)
        job = prepare(
            scenario,
            policies=chosen.policies,
            seeds=range(chosen.seed, chosen.seed + chosen.seeds),
            latency=chosen.latency,
            draft=chosen.draft,
            policy_latency=chosen.policy_latency,
            acceptance=chosen.acceptance,
            trace=chosen.trace,
            requests=chosen.requests,
            keep_steps=False,
            workers=1,
        )
    except ValidationError as error:
        raise InputError(f"point {told}: {first_problem(error)}") from error
    except InputError as error:
        raise InputError(f"point {told}: {error}") from error
    return Point(name, settings, job)


def _with(scenario: Scenario, settings: Mapping[str, Value]) -> Scenario:
    """The scenario with the value at each dotted path replaced."""
    if not settings:
        return scenario
    table = deepcopy(scenario.model_dump(mode="json", exclude_unset=True))
    for path, value in settings.items():
        *above, last = path.split(".")
        place: Any = table
        for key in above:
            place = place.setdefault(key, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise InputError(f"{path!r} is no key of a scenario: {above[-1]!r} is not a table")
        place[last] = value
    return scenario_from(table, scenario.name)
