"""The tuner's candidates are valid and its verdict is right; timing itself needs a GPU."""

from __future__ import annotations

import pytest
import torch

from kernels.common import recording
from kernels.profiling.tune import TRIALS, Result, Trial, better


@pytest.mark.parametrize("name", list(TRIALS))
def test_candidates_launch_on_meta_and_differ_from_the_committed(name: str) -> None:
    trials = list(TRIALS[name]())
    shapes = {trial.shape for trial in trials}
    for shape in shapes:
        mine = [trial for trial in trials if trial.shape == shape]
        assert sum(trial.committed for trial in mine) == 1
        assert len({trial.cfg for trial in mine}) == len(mine) > 2
    with recording(lambda kernel, args, meta: None):
        for trial in trials[:30]:
            op = trial.tuned()
            op.run(**op.inputs(trial.shape, "meta", torch.bfloat16, 0))


def test_better_wants_correct_and_clearly_faster() -> None:
    first, *others = list(TRIALS["lm_head"]())[:5]

    def verdict(*measured: tuple[Trial, float, float]) -> list[float]:
        return [new.median_us for _, new in better([Result(t, e, us) for t, e, us in measured])]

    assert verdict((first, 1e-3, 100.0), (others[0], 1e-3, 90.0), (others[1], 1e-3, 80.0)) == [80.0]
    assert verdict((first, 1e-3, 100.0), (others[0], 1e-3, 98.0)) == []
    assert verdict((first, 1e-3, 100.0), (others[0], 0.5, 50.0)) == []
    assert verdict((first, 0.5, 100.0), (others[0], 1e-3, 50.0)) == []
