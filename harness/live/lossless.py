"""Speculation must not change what is said: every arm's greedy texts against those of the first arm, token by token.

Where they differ, floating point is the usual reason: the same token computed in a batch of another shape can turn a
near tie round. So differences are counted and placed, not forbidden. Where the target itself changes, a request under
way is answered by both targets, and by how much of each depends on the arm's speed: those are told apart, not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.live.load import Answer


class Texts:
    """The answers of all cells, by arm and seed."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, int], dict[int, tuple[int, ...]]] = {}
        self._mixed: dict[tuple[str, int], set[int]] = {}

    def add(
        self, arm: str, seed: int, answers: Sequence[Answer], changes: Sequence[tuple[float, float]] = ()
    ) -> None:
        """`changes`: between which two moments each change of the target fell."""
        finished = [a for a in answers if a.status == "finished"]
        self._tokens[arm, seed] = {a.request_id: a.tokens for a in finished}
        self._mixed[arm, seed] = {
            a.request_id for a in finished for asked, done in changes if a.sent <= done and a.finish >= asked
        }

    def compared(self, arms: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Per arm: `over` (the arm compared with: `none` if it ran, else the first), requests `compared` and
        `equal`, `parted` (at which output token the texts part, of those that do), and `mixed`: requests that in either
        arm were under way as the target changed, which are not compared."""
        over = "none" if "none" in arms else arms[0]
        return {arm: {"over": over, **self._against(arm, over)} for arm in arms if arm != over}

    def _against(self, arm: str, over: str) -> dict[str, Any]:
        compared, mixed, parted = 0, 0, []
        for (name, seed), texts in self._tokens.items():
            if name != arm or (over, seed) not in self._tokens:
                continue
            others = self._tokens[over, seed]
            for request_id, tokens in texts.items():
                if request_id in self._mixed[name, seed] | self._mixed[over, seed]:
                    mixed += request_id in others
                elif request_id in others:
                    compared += 1
                    if tokens != others[request_id]:
                        parted.append(first_difference(tokens, others[request_id]))
        return {
            "compared": compared,
            "equal": compared - len(parted),
            "parted": sorted(parted),
            "mixed": mixed,
        }


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """Index of the first token that differs; the shorter length when one begins the other."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
