"""Texts of arms against each other."""

from __future__ import annotations

from harness.live.load import Answer
from harness.live.lossless import Texts, first_difference


def answer(request_id: int, tokens: tuple[int, ...], status: str = "finished") -> Answer:
    return Answer(request_id, 0.0, 0.1, 0.2, tokens, len(tokens), 1, status, "", 1)


def test_differences_are_counted_and_placed():
    texts = Texts()
    texts.add("none", 0, [answer(1, (5, 6, 7)), answer(2, (5, 6)), answer(3, (9,))])
    texts.add("bandit", 0, [answer(1, (5, 6, 7)), answer(2, (5, 8)), answer(3, (), "failed")])
    assert texts.compared(["bandit", "none"]) == {
        "bandit": {"over": "none", "compared": 2, "equal": 1, "parted": [1]}
    }


def test_without_an_arm_that_drafts_nothing_the_first_arm_is_the_measure():
    texts = Texts()
    texts.add("static:3", 0, [answer(1, (5,))])
    texts.add("bandit", 0, [answer(1, (5,))])
    texts.add("bandit", 1, [answer(1, (6,))])  # another seed, which the first arm has not run
    assert texts.compared(["static:3", "bandit"])["bandit"] == {
        "over": "static:3",
        "compared": 1,
        "equal": 1,
        "parted": [],
    }


def test_a_text_that_goes_on_parts_where_the_other_ends():
    assert first_difference((1, 2), (1, 2, 3)) == 2
