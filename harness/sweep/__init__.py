"""`specdrift sweep`: the same arms at every point of a grid. `grid.py` reads it, `points.py` runs it, `result.py` says
what was found."""
