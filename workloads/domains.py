"""What a domain of traffic is like: its lengths, how well a trained drafter does on it, how it learns.

The shipped profiles stand in `domains.toml`, each number with its source and whether it is
measured, published, fitted or assumed. Acceptance describes the *static* drafter (a well-trained,
off-the-shelf one) on the verifier it was made for.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import InputError, MissingPart, UnknownName

MAX_HAZARDS = 16
"""Most draft positions a profile may describe."""

DOMAINS_FILE = Path(__file__).with_name("domains.toml")

_Z95 = 1.6448536269514722
_BASIS = ("measured", "published", "fitted", "assumed")


@dataclass(frozen=True, slots=True)
class LengthLaw:
    """Token counts: lognormal by its median and 95th percentile, rounded, then clipped to lo..hi."""

    median: float
    p95: float
    lo: int = 1
    hi: int = 131_072

    def __post_init__(self) -> None:
        if not (1 <= self.lo <= self.median <= self.p95 <= self.hi < math.inf):
            raise InputError(
                f"a length law has lo {self.lo}, median {self.median}, p95 {self.p95}, hi {self.hi}; "
                "1 <= lo <= median <= p95 <= hi must hold"
            )

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm."""
        return math.log(self.p95 / self.median) / _Z95

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` lengths in tokens, int64[n]."""
        lengths = rng.lognormal(math.log(self.median), self.sigma, size=n)
        return np.clip(np.rint(lengths), self.lo, self.hi).astype(np.int64)


@dataclass(frozen=True, slots=True)
class DomainProfile:
    """One domain. Build your own in Python, or as a table of a TOML file for `load_domains`."""

    name: str
    prompt: LengthLaw
    output: LengthLaw
    hazards: tuple[float, ...]
    """Acceptance at draft position i given that all before it were accepted, pooled over verify
    steps of the static drafter; the last one repeats. Each lies in 0..1, 1 excluded."""
    latent_sd: float
    """Standard deviation over requests of their easiness, on the logit scale."""
    measured_k: int = 7
    """The K under which `hazards` hold: pooled figures depend on it, since a larger K spends fewer
    verify steps on easy requests."""
    ceiling: float = 1.5
    """Accepted tokens per step that unlimited training on the domain reaches, over the static drafter's."""
    transfer: float = 0.6
    """Share of the ceiling that training on other domains alone reaches here."""
    anchor: tuple[int, float] | None = None
    """(K, acceptance length) that `hazards` were solved to meet, where no more is published."""
    basis: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where numbers come from: 'measured|published|fitted|assumed: source', by field."""

    def __post_init__(self) -> None:
        top = MAX_HAZARDS
        rules = (
            ("hazards", 1 <= len(self.hazards) <= top, f"there must be 1 to {top}"),
            ("hazards", all(0.0 <= h < 1.0 for h in self.hazards), "each must lie in 0..1, 1 excluded"),
            ("latent_sd", 0.0 <= self.latent_sd <= 3.0, "it must lie in 0..3"),
            ("measured_k", 1 <= self.measured_k <= top, f"it must lie in 1..{top}"),
            ("ceiling", 1.0 <= self.ceiling < math.inf, "it must be at least 1"),
            ("transfer", 0.0 <= self.transfer <= 1.0, "it must lie in 0..1"),
            ("anchor", self.anchor is None or _possible(*self.anchor), "it must be (K, length <= K + 1)"),
            ("basis", self._basis_known(), f"each must begin with one of {', '.join(_BASIS)} and a colon"),
        )
        for name, kept, rule in rules:
            if not kept:
                raise InputError(f"domain {self.name!r}: {name} is {getattr(self, name)}; {rule}")

    def _basis_known(self) -> bool:
        return all(text.partition(":")[0] in _BASIS for text in self.basis.values())


def load_domains(path: Path | None = None) -> dict[str, DomainProfile]:
    """Profiles by name, from `path` or the shipped file. A bad file raises InputError.

    A table may say `like = "other"`: it takes what it does not state itself from that one.
    """
    source = path or DOMAINS_FILE
    try:
        tables = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingPart(f"cannot read domains from {source}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{source} is not TOML: {error}") from error
    return {name: _profile(name, tables) for name in tables}


@cache
def _shipped() -> dict[str, DomainProfile]:
    return load_domains()


def domain(name: str) -> DomainProfile:
    """A shipped profile; UnknownName offers the nearest valid one."""
    try:
        return _shipped()[name]
    except KeyError:
        raise UnknownName("domain", name, _shipped()) from None


def _possible(k: int, length: float) -> bool:
    return 1 <= k <= MAX_HAZARDS and 1.0 <= length <= k + 1


_REQUIRED = ("prompt", "output", "hazards", "latent_sd")
_KEYS = tuple(f.name for f in fields(DomainProfile) if f.name != "name")


def _profile(name: str, tables: Mapping[str, Any]) -> DomainProfile:
    table = _resolved(name, tables)
    for key in table:
        if key not in _KEYS:
            raise UnknownName(f"key of domain {name!r}", key, (*_KEYS, "like"))
    lacking = [key for key in _REQUIRED if key not in table]
    if lacking:
        raise InputError(f"domain {name!r} lacks {', '.join(lacking)}; it needs {', '.join(_REQUIRED)}")
    try:
        table["prompt"], table["output"] = LengthLaw(**table["prompt"]), LengthLaw(**table["output"])
        table["hazards"] = tuple(float(h) for h in table["hazards"])
        if "anchor" in table:
            k, length = table["anchor"]
            table["anchor"] = (int(k), float(length))
        return DomainProfile(name=name, **table)
    except InputError:
        raise
    except (TypeError, AttributeError, ValueError) as error:
        raise InputError(f"domain {name!r} is not well formed: {error}") from error


def _resolved(name: str, tables: Mapping[str, Any]) -> dict[str, Any]:
    """The domain's table with what `like` gives it."""
    if not isinstance(tables[name], dict):
        raise InputError(f"{name!r} is {tables[name]!r} where a table [{name}] must stand")
    table = dict(tables[name])
    like = table.pop("like", None)
    if like is None:
        return table
    if like not in tables:
        raise UnknownName("domain", like, tables)
    if "like" in tables[like]:
        raise InputError(f"domain {name!r} is like {like!r}, which is itself like another; name that one")
    basis = {**tables[like].get("basis", {}), **table.get("basis", {})}
    return {**tables[like], **table, "basis": basis}
