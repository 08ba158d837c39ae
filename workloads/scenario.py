"""A scenario: everything of a run that is not a policy or a seed, loaded from TOML.

`load_scenario("domain-shift")` reads one of `workloads/scenarios/`; a path to a `.toml` reads your own.
`docs/workloads.md` shows how to write one.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from harness.errors import InputError, UnknownName
from workloads.arrival_spec import Arrivals
from workloads.mixture import Shift
from workloads.mixture_spec import Mix, check_domains
from workloads.parts import Count, Engine, Fault, Name, Part, Positive, Swap, Tenant, Trainer, VerifierUpdate

FOLDER = Path(__file__).parent / "scenarios"


class Scenario(Part):
    """What arrives, what happens to the server, and which arms answer the question."""

    name: Name
    """Name of the scenario, as it stands in reports."""
    question: Annotated[str, Field(min_length=1, pattern=r"^[^\n]+$")]
    """What a run of this scenario answers, in one line."""
    requests: Count
    """Requests of one run; `--trace` and `--requests` override it."""
    arrivals: Arrivals
    """When requests arrive."""
    load: Positive = 1.0
    """Factor on the offered load: every arrival time, a trace's too, is divided by it."""
    mixture: Mix
    """Domains of the requests of tenants that have no `domains` of their own."""
    tenants: Annotated[tuple[Tenant, ...], Field(min_length=1)] = (Tenant(name="default"),)
    """The server's customers; each request belongs to one."""
    verifier_updates: tuple[VerifierUpdate, ...] = ()
    """In order of `at`."""
    faults: tuple[Fault, ...] = ()
    """In order of `at`."""
    drafter: Literal["pretrained", "untrained"] = "pretrained"
    """What the drafter is when the run begins; `untrained` is Aurora's day zero."""
    trainer: Trainer = Trainer()
    """The process that learns the drafter."""
    swap: Swap = Swap()
    """What a publication costs."""
    engine: Engine = Engine()
    """Settings of the engine that differ from its defaults."""
    latency: Name = "h100-llama3-8b"
    """Name or file of the latency model; `--latency` overrides it."""
    max_k: Annotated[int, Field(ge=1, le=32)] = 7
    """Largest number of draft tokens that a plan may ask for."""
    arms: Annotated[tuple[Name, ...], Field(min_length=1)] = (
        "none",
        "static:3",
        "schedule",
        "cadence",
        "goodput",
        "bandit",
        "oracle",
    )
    """Policies compared when no `--policy` is given."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Scenario:
        _check_unique("tenant", [tenant.name for tenant in self.tenants])
        _check_unique("arm", list(self.arms))
        for tenant in self.tenants:
            if tenant.domains is not None:
                check_domains(tenant.domains, f"tenant {tenant.name!r}")
        for mix in self.mixture.mixes():
            check_domains(mix, "a stage of the mixture" if self.mixture.kind != "constant" else "the mixture")
        for what, moments in (("verifier_updates", self.verifier_updates), ("faults", self.faults)):
            places = [moment.at for moment in moments]
            if places != sorted(places):
                raise ValueError(f"{what} are at {places}; put them in order of 'at'")
        return self

    def domains(self) -> tuple[str, ...]:
        """Every domain that a generated request can have, sorted."""
        mixes = [t.domains for t in self.tenants if t.domains is not None]
        if len(mixes) < len(self.tenants):
            mixes += self.mixture.mixes()
        return tuple(sorted({name for mix in mixes for name, weight in mix.items() if weight > 0}))

    def shifts(self) -> tuple[Shift, ...]:
        """Where the likeliest domain of the mixture changes, in progress by requests.

        Empty when the mixture moves by time: its shifts then recur every `period`, wherever the requests are.
        """
        return self.mixture.build().shifts() if self.mixture.by == "requests" else ()

    def tenant(self, name: str) -> Tenant:
        """The tenant of that name, or UnknownName."""
        for tenant in self.tenants:
            if tenant.name == name:
                return tenant
        raise UnknownName("tenant", name, [tenant.name for tenant in self.tenants])


def scenario_names() -> tuple[str, ...]:
    """Names of the scenarios that come with the package, sorted."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))


def load_scenario(name_or_path: str | os.PathLike[str]) -> Scenario:
    """The scenario of that name, or of that TOML file (anything that ends in `.toml` or holds a path
    separator).

    Raises UnknownName for an unknown name, InputError for a file that is missing, not TOML, or breaks a rule.
    """
    text = os.fspath(name_or_path)
    if text.endswith(".toml") or os.sep in text:
        return parse_scenario(_read(Path(text)), text)
    if text not in scenario_names():
        raise UnknownName("scenario", text, scenario_names())
    return parse_scenario(_read(FOLDER / f"{text}.toml"), text)


def parse_scenario(toml: str, source: str) -> Scenario:
    """A scenario from TOML text; `source` names it in error messages."""
    try:
        table = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"scenario {source} is not valid TOML: {error}") from error
    return scenario_from(table, source)


def scenario_from(table: dict[str, Any], source: str) -> Scenario:
    """A scenario from plain data (a parsed TOML file, or the record of an earlier run)."""
    try:
        return Scenario.model_validate(table)
    except ValidationError as error:
        raise InputError(f"scenario {source}: {first_problem(error)}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"cannot read scenario file {path}: {reason}") from error


def first_problem(error: ValidationError) -> str:
    """The first thing wrong with a file, in a sentence that names its key as the file has it."""
    problem = error.errors()[0]
    place, context = _place(problem["loc"]), problem.get("ctx", {})
    if isinstance(cause := context.get("error"), Exception):
        return f"{place}: {cause}" if place else str(cause)
    if problem["type"] == "missing":
        return f"{place} is missing"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kind, tags = context["discriminator"].strip("'"), context.get("expected_tags", "")
        if problem["type"] == "union_tag_not_found":
            return f"{place}.{kind} is missing"
        return f"{place}: {UnknownName(kind, context['tag'], tags.replace(chr(39), '').split(', '))}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    given = "" if isinstance(problem["input"], dict | list) else f" is {problem['input']!r}"
    return f"{place}{given}: {message}"


def _place(parts: tuple[int | str, ...]) -> str:
    """The key as the file has it: pydantic names the chosen kind after `arrivals` and `mixture`, the file
    does not."""
    if len(parts) > 1 and parts[0] in ("arrivals", "mixture"):
        parts = (parts[0], *parts[2:])
    return ".".join(str(part) for part in parts)


def _check_unique(kind: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{kind} {name!r} is given more than once")
