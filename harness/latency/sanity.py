"""The published speedups that the published step cost must give back.

Source of cost, speedups and acceptance: the replay of SpecDecode-Bench (arXiv 2601.11580), Llama-3.1-8B with
EAGLE-3 on H100, ShareGPT chat. Acceptance by position is that of the same K: what a step at K = 3 accepts at
position 1 is not what one at K = 7 does, because the steps start elsewhere in the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.latency import published
from harness.latency.model import LatencyModel
from harness.latency.shape import decode_shape

CONTEXT = 725
BATCHES = (1, 32, 128, 512)
CHAT_BY_POSITION = {
    3: (0.622, 0.381, 0.252),
    7: (0.597, 0.350, 0.223, 0.153, 0.112, 0.084, 0.063),
}
"""Unconditional acceptance at each position, by K."""
DRIFTED_LENGTH = 1.5
PUBLISHED = {
    ("chat", 3): (1.72, 1.52, 1.28, 1.09),
    ("chat", 7): (1.96, 1.44, 1.01, 0.76),
    ("drifted", 3): (1.15, 1.01, 0.85, 0.73),
}
BREAK_EVEN = (33, 41)
"""Range in which the drifted drafter's break-even batch must fall; 37 published."""


@dataclass(frozen=True, slots=True)
class Row:
    """One speedup: what the model gives beside what was published."""

    drafter: str
    k: int
    batch: int
    speedup: float
    published: float

    @property
    def error(self) -> float:
        return self.speedup / self.published - 1.0


def speedup(model: LatencyModel, batch: int, k: int, acceptance_length: float) -> float:
    """Tokens per second with K = `k` over those of the same engine without a drafter."""
    alone = model.predict(decode_shape(batch, 0, CONTEXT, drafter_loaded=False))
    return acceptance_length * alone / model.predict(decode_shape(batch, k, CONTEXT))


def acceptance_length(drafter: str, k: int) -> float:
    return DRIFTED_LENGTH if drafter == "drifted" else 1.0 + sum(CHAT_BY_POSITION[k])


def table(model: LatencyModel | None = None) -> list[Row]:
    """Every published speedup beside the model's (default: the published fit)."""
    model = model or published.build()
    return [
        Row(drafter, k, batch, speedup(model, batch, k, acceptance_length(drafter, k)), expected)
        for (drafter, k), row in PUBLISHED.items()
        for batch, expected in zip(BATCHES, row, strict=True)
    ]


def break_even(model: LatencyModel | None = None, k: int = 3) -> int:
    """Smallest batch at which the drifted drafter no longer pays."""
    model = model or published.build()
    return next(b for b in range(1, 4096) if speedup(model, b, k, DRIFTED_LENGTH) < 1.0)


def implied_draft_ms(k: int) -> list[float]:
    """Draft cost that each published chat speedup at this K implies, milliseconds per step, by batch."""
    model, tau = published.build(), acceptance_length("chat", k)
    found = []
    for batch, expected in zip(BATCHES, PUBLISHED["chat", k], strict=True):
        alone = model.predict(decode_shape(batch, 0, CONTEXT, drafter_loaded=False))
        with_draft = model.predict(decode_shape(batch, k, CONTEXT)) * 1e3
        found.append(tau * alone / expected * 1e3 - (with_draft - published.DRAFT_MS))
    return found


def main() -> None:
    print("drafter   K  batch  speedup  published  error")
    for r in table():
        print(f"{r.drafter:8s} {r.k:2d} {r.batch:6d} {r.speedup:8.3f} {r.published:10.2f} {r.error:+6.1%}")
    print(f"break-even batch of the drifted drafter: {break_even()} (published: 37)")
    for k in CHAT_BY_POSITION:
        implied = ", ".join(f"{d:.2f}" for d in implied_draft_ms(k))
        print(f"draft cost implied at K = {k}, batch {BATCHES}: {implied} ms (fit: {published.DRAFT_MS})")


if __name__ == "__main__":
    main()
