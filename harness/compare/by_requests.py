"""Speedup and acceptance length as requests went by, in order of arrival."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness.compare.acceptance_curve import curve, plain
from harness.errors import UnknownName
from harness.runlog import Run


def by_requests(run: Run, every: int, over: str | None = None) -> dict[str, Any]:
    """Plain data: `begins` (first request of each block of `every`) and per arm, means over seeds,

    - `speedup`: engine time per output token of arm `over` by the arm's own, over those of the block's requests that
      both finished; None where a seed has none;
    - `length`: acceptance length at the K that was used; None where a seed drafted nothing.

    `over`: default `none`, else the first arm. UnknownName when the run has no such arm.
    """
    reference = over or ("none" if "none" in run.arms else run.arms[0])
    if reference not in run.arms:
        raise UnknownName("arm", reference, run.arms)
    arms = {
        arm: {
            "speedup": plain(np.mean([_speedup(run, arm, reference, s, every) for s in run.seeds], axis=0)),
            "length": plain(np.mean([curve(run, arm, s, every) for s in run.seeds], axis=0)),
        }
        for arm in run.arms
    }
    begins = [every * i for i in range(len(arms[reference]["length"]))]
    return {"every": every, "over": reference, "seeds": list(run.seeds), "begins": begins, "arms": arms}


def _speedup(run: Run, arm: str, over: str, seed: int, every: int) -> np.ndarray:
    """Float64[blocks], NaN where no request of a block was finished by both."""
    own, other = _served(run, arm, seed), _served(run, over, seed)
    both = own["finished"] & other["finished"]
    block = np.arange(len(own)) // every
    sums = [f[both].groupby(block[both])[["seconds", "tokens"]].sum() for f in (own, other)]
    per_token = [(s["seconds"] / s["tokens"]).reindex(range(block[-1] + 1)) for s in sums]
    return np.asarray(per_token[1] / per_token[0])


def _served(run: Run, arm: str, seed: int) -> pd.DataFrame:
    """A row a request in order of arrival: seconds in the engine, output tokens, whether it finished."""
    columns = ("request_id", "arrival", "scheduled", "finish", "output_tokens", "status")
    rows = run.requests(arm, seed, columns=columns).sort_values(["arrival", "request_id"], ignore_index=True)
    return pd.DataFrame(
        {
            "seconds": rows["finish"] - rows["scheduled"],
            "tokens": rows["output_tokens"],
            "finished": rows["status"] == "finished",
        }
    )
