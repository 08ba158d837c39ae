"""Acceptance `model`: a real tiny target and a real drafter, really trained, under the simulated clock.

Start with `source.py` (the parts and how the world meets them), then `texts.py` (what requests say),
`tables.py` (what a drafter would propose anywhere in them) and `trainer.py` (the learner of
`harness.speculator` as a simulated process). Needs torch; nothing else of the simulator does.
"""
