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
        "bandit": {"over": "none", "compared": 2, "equal": 1, "parted": [1], "mixed": 0}
    }


def test_what_was_under_way_as_the_target_changed_is_not_compared():
    """The change fell between 0.25 and 0.3 s in one arm, 0.1 s later in the other."""
    texts = Texts()
    spans = {1: (0.0, 0.2), 2: (0.0, 0.26), 3: (0.29, 0.34), 4: (0.35, 0.6), 5: (0.45, 0.6)}
    for arm, last, change in (("none", 8, (0.25, 0.3)), ("bandit", 9, (0.35, 0.4))):
        answers = [
            Answer(i, sent, sent, end, (7, last), 2, 1, "finished", "", 1) for i, (sent, end) in spans.items()
        ]
        texts.add(arm, 0, answers, [change])
    assert texts.compared(["none", "bandit"])["bandit"] == {
        "over": "none",
        "compared": 2,  # 1 and 5; 2 and 3 met the change under `none`, 4 under `bandit`
        "equal": 0,
        "parted": [1, 1],
        "mixed": 3,
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
        "mixed": 0,
    }


def test_a_text_that_goes_on_parts_where_the_other_ends():
    assert first_difference((1, 2), (1, 2, 3)) == 2
