"""What to measure, most valuable first.

Wherever the budget ends, the file should hold all models coarsely rather than one finely. So every
sweep is already ordered from telling to fine, and an item's priority grows with its place in the
sweep, with the rank of its model and with a base for its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kernels.common import Cost, Op
from kernels.models import PROFILED, Model
from kernels.profiling.rows import key
from kernels.registry import OPS

TRITON = "triton"
EAGER = "triton-eager"
FULL_CHECK = "full-check"

BASE = {
    "verify_step": 0.0,
    "draft_pass": 0.6,
    "layer": 0.8,
    "attention": 0.4,
    "gemm": 0.6,
    "lm_head": 0.9,
    "fusion": 1.2,
    "rejection": 1.6,
    "rmsnorm": 1.6,
    "rotary": 1.6,
    "swiglu": 1.6,
    "kl_forward": 2.0,
    "kl_backward": 2.0,
}
MODEL_STEP = 0.5
PLACE_STEP = 4.0
"""From the first to the last shape of a sweep."""
PEER_STEP = 0.1
PEER_SHARE = 0.5
"""Peers run on this first part of a sweep."""

FIRST = 12
"""Shapes that the full check chooses from."""

SETUP_S = 0.1
"""Assumed per item, until a GPU has told otherwise: inputs, check, capture."""
REPLAY_S = 0.04
"""Assumed: replays."""


Supports = Callable[[Any], bool]
Peers = Mapping[tuple[str, str], Supports]
"""(op, impl) -> which shapes that peer can do."""


@dataclass(frozen=True, slots=True)
class Item:
    """One row to be."""

    priority: float
    op: str
    impl: str
    model: str
    shape: Any

    @property
    def key(self) -> str:
        return key(self.op, self.impl, asdict(self.shape))

    @property
    def described(self) -> dict[str, Any]:
        """The fields that a row shares with its item."""
        return {"op": self.op, "impl": self.impl, "model": self.model, "shape": asdict(self.shape)}

    @property
    def cost(self) -> Cost:
        return OPS[self.op].cost(self.shape)

    def seconds(self, gb_per_s: float = 4000.0, tflops: float = 700.0) -> float:
        """A rough guess for the budget: setup, then at least seven replays."""
        floor = self.cost.floor_us(gb_per_s, tflops) * 1e-6
        return SETUP_S + max(REPLAY_S, 12 * floor) + 3 * self.cost.cold_bytes / 1e12


def plan(peers: Peers | None = None, models: Iterable[Model] = PROFILED) -> list[Item]:
    """All items in order, `peers` beside our kernels.

    First one full-size check of each op, then the sweeps; equal keys once, at their best place.
    """
    models = list(models)
    items = checks(models[0])
    for rank, model in enumerate(models):
        for op in OPS.values():
            items += _sweep(
                op, model, rank, {i: s for (name, i), s in (peers or {}).items() if name == op.name}
            )
    items.sort(key=lambda item: item.priority)
    unique: dict[str, Item] = {}
    for item in items:
        unique.setdefault(item.key, item)
    return list(unique.values())


def checks(model: Model) -> list[Item]:
    """Correctness at full size against the whole reference: of each op, the heaviest of its first shapes."""

    def weight(cost: Cost) -> float:
        return cost.cold_bytes + cost.warm_bytes + cost.flops / 200

    items = []
    for place, (name, op) in enumerate(OPS.items()):
        costs = [(weight(op.cost(shape)), i) for i, shape in enumerate(op.shapes(model)[:FIRST])]
        shape = op.shapes(model)[max(costs)[1]]
        items.append(Item(-2.0 + place / 100, name, FULL_CHECK, model.name, shape))
    return items


def _sweep(op: Op, model: Model, rank: int, peers: dict[str, Supports]) -> list[Item]:
    shapes = op.shapes(model)
    items = []
    for place, shape in enumerate(shapes):
        share = place / len(shapes)
        priority = BASE[op.name] + MODEL_STEP * rank + PLACE_STEP * share

        def add(impl: str, at: float, shape: Any = shape) -> None:
            items.append(Item(at, op.name, impl, model.name, shape))

        add(TRITON, priority)
        for impl, supports in peers.items():
            if share < PEER_SHARE and supports(shape):
                add(impl, priority + PEER_STEP)
        if op.name == "verify_step" and shape.batch in (1, 64) and shape.context == 1024 and shape.drafter:
            add(EAGER, priority + PEER_STEP)
    return items
