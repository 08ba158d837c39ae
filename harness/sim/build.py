"""Building one cell from its scenario: the only place where the parts meet."""

from __future__ import annotations

from harness.errors import require_learning
from harness.sim.cell import Cell
from harness.sim.parametric import build_parametric_world
from harness.sim.world import Sink, World


def build_world(cell: Cell, sink: Sink) -> World:
    """All parts of the cell, wired."""
    if cell.model is not None:
        require_learning()
        from harness.sim.model.build import build_model_world

        return build_model_world(cell, cell.model, sink)
    if cell.acceptance.startswith("replay:"):
        from harness.sim.replay.build import build_replay_world

        return build_replay_world(cell, sink)
    return build_parametric_world(cell, sink)
