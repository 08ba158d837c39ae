"""What the log keeps of a control tick: enough to score another policy on it later."""

from __future__ import annotations

from typing import Any

from harness.contract import Observation, Plan, StepLatency


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
        "trainer": [o.trainer.steps, o.trainer.samples, o.trainer.dropped, o.trainer.candidate],
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


def _steps(s: StepLatency) -> list[float]:
    """Batch, K, steps, seconds and tokens; sixth, the drafts for the next step where they are not K."""
    row = [s.batch, s.k, s.steps, round(s.seconds, 6), s.tokens]
    return row if s.drafted is None else [*row, s.drafted]
