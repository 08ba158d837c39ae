"""Acceptance `replay`: the verify steps that a run recorded, under the simulator's clock.

Start with `outcomes.py` (what holds, known or drawn), then `world.py` (what happens again when it did) and
`build.py` (how a cell is wired). `record.py` reads the run. No torch.
"""
