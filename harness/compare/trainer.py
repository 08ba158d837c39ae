"""What training costs, in accelerator-seconds, and what share of them all served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.errors import InputError


def trainer_cost(arm: Mapping[str, Any], events: pd.DataFrame, duration: float | None) -> dict[str, Any]:
    """`trainer_cost` (accelerator-seconds), its `basis`, and `served_share` in (0, 1].

    served_share = serving / (serving + training accelerator-seconds): tokens per second of a server
    that would have to give up that share of its accelerators for training. Training that shares the
    server's accelerator is charged by the slower steps themselves, so it adds nothing here.
    """
    serving = _accelerators(arm, "accelerators", 1.0)
    training = _accelerators(arm, "trainer_accelerators", 0.0)
    if serving == 0:
        raise InputError("an arm has 0 accelerators; it must serve on some")
    if training == 0 or not duration:
        return {"trainer_cost": 0.0, "basis": "none", "served_share": 1.0}
    said = [
        d["busy_seconds"] for d in events.loc[events["kind"] == "trainer", "detail"] if "busy_seconds" in d
    ]
    seconds, basis = (float(said[-1]), "busy") if said else (duration, "held")
    cost = training * seconds
    return {
        "trainer_cost": cost,
        "basis": basis,
        "served_share": serving * duration / (serving * duration + cost),
    }


def _accelerators(arm: Mapping[str, Any], key: str, default: float) -> float:
    value = arm.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InputError(f"{key} of an arm is {value!r}; it must be a number of accelerators, 0 or more")
    return float(value)
