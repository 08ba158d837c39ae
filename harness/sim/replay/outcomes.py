"""How many drafts hold in a verify step: as recorded where the record says so, drawn where it does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.contract import Request
from harness.rng import stream
from harness.sim.replay.hazards import Hazards


class Outcomes:
    """Of one recorded cell. What was verified with K drafts tells every K' <= K, and every K' at all where a
    draft failed; deeper positions, and places where no step was recorded, are drawn.

    Draws are addressed by (seed, request, output tokens generated, position), so they do not depend on the
    order of asking, and the outcome for K' < K is that for K cut at K'.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        steps: pd.DataFrame,
        depth: int,
        seed: int,
        static: pd.DataFrame | None = None,
    ) -> None:
        """`steps`: rows of contract.VerifyRecord; `depth`: largest K that will be asked for, >= 1; `static`: what any
        arm recorded of the static drafter (version 0), which is the same one in all of them."""
        self._seed = seed
        self._depth = depth
        self._requests = {r.request_id: (rank, r.domain) for rank, r in enumerate(requests)}
        own = steps.sort_values("k", kind="stable")
        shared = own[own["drafter_version"] == 0]
        if static is not None:
            shared = pd.concat([shared, static]).sort_values("k", kind="stable")
        # Of two steps at one place (of two arms, or the first was lost with a preemption) the deeper one tells more.
        self._known = _by_place(own)
        self._static = _by_place(shared)
        told = pd.concat([own, shared]).drop_duplicates(["request_id", "at", "drafter_version"], keep="last")
        told = told[told["request_id"].isin(list(self._requests))]
        columns = {name: told[name].to_numpy() for name in ("k", "accepted", "drafter_version")}
        whose = [self._requests[i] for i in told["request_id"].tolist()]
        ranks = np.array([rank for rank, _ in whose], np.int64)
        domains = np.array([domain for _, domain in whose], np.str_)
        self._hazards = Hazards(columns, ranks, domains, depth)
        self.exact = 0
        """Steps that the record answered."""
        self.censored = 0
        """Steps drawn from the position on at which the recorded one had run out of drafts."""
        self.absent = 0
        """Steps drawn whole: the record has none at this place."""

    def accepted(self, request_id: int, at: int, k: int, version: int) -> int:
        """Drafts of `k` (1..depth) that hold after `at` output tokens under this drafter version.

        InputError when something must be drawn and the record has no verify step to learn from.
        """
        known = self._known.get((request_id, at))
        if version == 0 and (known is None or (known[1] == known[0] < k)):
            known = self._static.get((request_id, at), known)
        if known is not None and (known[0] >= k or known[1] < known[0]):
            self.exact += 1
            return min(known[1], k)
        if known is None:
            self.absent += 1
        else:
            self.censored += 1
        return self._draw(request_id, at, k, version, known[0] if known else 0)

    def _draw(self, request_id: int, at: int, k: int, version: int, first: int) -> int:
        hazards = self._hazards.near(*self._requests[request_id], version)
        luck = stream(self._seed, "replay", request_id, at).random(self._depth)
        failed = np.flatnonzero(luck[first:k] >= hazards[first:k])
        return first + int(failed[0]) if len(failed) else k


def _by_place(steps: pd.DataFrame) -> dict[tuple[int, int], tuple[int, int]]:
    """(request, output tokens before) -> (K, accepted), of the last step at each place."""
    columns = (steps[name].tolist() for name in ("request_id", "at", "k", "accepted"))
    return {(request, at): (k, accepted) for request, at, k, accepted in zip(*columns, strict=True)}
