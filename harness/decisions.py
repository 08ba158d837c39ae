"""What the log keeps of what a policy saw and chose: enough to score another policy on it later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from harness.contract import Observation, Plan, StepLatency, TrainerState


def tick_detail(o: Observation, p: Plan) -> dict[str, Any]:
    """Plain data of one decision: what was seen in short, what was chosen, with which propensity."""
    return {
        "running": o.running,
        "waiting": o.waiting,
        "kv_use": round(o.kv_use, 4),
        "context": round(o.mean_context, 1),
        "steps": [_steps(s) for s in o.steps],
        "engine_steps": o.engine_steps,
        "tokens": o.tokens,
        "finished": o.finished,
        "positions": {"|".join(key): [c.offered, c.accepted] for key, c in o.positions.items()},
        "drafter": o.drafter,
        "version": o.drafter_version,
        "verifier": o.verifier_version,
        "slo": round(o.slo_attainment, 4),
        "trainer": _trainer(o.trainer),
        "plan": {
            "k": p.k_by_batch,
            "drafter": p.drafter,
            "train": p.train.on,
            "budget": p.train.budget,
            "sample": p.train.sample,
            "publish": p.publish,
            "propensity": p.propensity,
        },
    }


class TrainerNews:
    """Notices when what a trainer says is news, whatever it has worked meanwhile: the event `trainer_state`."""

    def __init__(self) -> None:
        self._known = TrainerState()

    def of(self, state: TrainerState) -> dict[str, Any] | None:
        """Plain data of the whole state, to be logged; None when nothing but its counters has changed."""
        said = with_counters(state, [0, 0, 0, None, 0.0])
        if said == self._known:
            return None
        self._known = said
        return asdict(state)


def with_counters(state: TrainerState, counters: Sequence[Any]) -> TrainerState:
    """`state` after more work; `counters` are a tick's `trainer`."""
    steps, samples, dropped, _, busy = counters
    return replace(state, steps=steps, samples=samples, dropped=dropped, busy_seconds=busy)


def _trainer(t: TrainerState) -> list[Any]:
    return [t.steps, t.samples, t.dropped, t.candidate, round(t.busy_seconds, 3)]


def _steps(s: StepLatency) -> list[float]:
    """Batch, K, steps, seconds and tokens; sixth, the drafts for the next step where they are not K."""
    row = [s.batch, s.k, s.steps, round(s.seconds, 6), s.tokens]
    return row if s.drafted is None else [*row, s.drafted]
