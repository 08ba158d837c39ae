"""The one exception tree. Each message gives the value, the rule it breaks and the nearest valid name."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable


class SpecdriftError(Exception):
    """Base of all errors that a user can cause and mend; the command line turns it into exit code 2."""


class InputError(SpecdriftError, ValueError):
    """A value, file or table is not what it must be."""


class MissingPart(SpecdriftError):
    """Something needed is not installed or not present; the message says how to get it."""


class UnknownName(InputError):
    """A name is not registered; the message offers the nearest one that is."""

    def __init__(self, kind: str, name: str, valid: Iterable[str]) -> None:
        names = sorted(valid)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}; {hint}valid: {', '.join(names)}")
        self.name = name


def require(extra: str, *packages: str) -> None:
    """MissingPart unless all packages are installed; `extra` of ours brings them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPart(
            f"{', '.join(missing)} is not installed; python3 -m pip install 'specdrift[{extra}]'"
        )


def require_learning() -> None:
    """What making and training real models needs."""
    require("learn", "torch", "transformers", "safetensors", "river")
