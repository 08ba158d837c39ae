"""The speculator as a learner: traces of verify passes in, vetted drafter weights out. Needs torch.

Start with `traces.py` (what serving leaves behind), `learner.py` (what becomes of it) and `drafters/base.py`
(what any drafter must do). To add an objective, one function in `objectives.py`; a drafter, one file in
`drafters/` and a line in its `registry.py`; a way to learn, a table in `learners.toml`. `docs/learning.md` has
the figures.
"""
