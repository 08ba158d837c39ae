"""Marks of what a learning run logs."""

from __future__ import annotations

import pandas as pd

from harness.compare.series import _marks
from reports.marks import GLYPHS, read_mark


def test_a_refused_candidate_has_a_sign_of_its_own_and_says_why():
    mark = read_mark(
        {"kind": "quarantine", "time": 2.0, "detail": {"reason": "a weight is not a finite number"}}
    )
    assert mark.glyph in GLYPHS
    assert mark.glyph == "quarantine"
    assert "finite" in mark.label


def test_walks_of_the_drafter_are_no_marks():
    events = pd.DataFrame(
        {
            "time": [1.0, 2.0],
            "kind": ["drafter", "quarantine"],
            "detail": [{"requests": [1]}, {"reason": "x"}],
        }
    )
    assert [m["kind"] for m in _marks(events)] == ["quarantine"]
