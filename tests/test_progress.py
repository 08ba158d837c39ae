"""Progress for logs."""

from __future__ import annotations

from harness.progress import in_quarters


def test_a_stage_is_said_at_its_beginning_and_each_quarter_of_it() -> None:
    said: list[str] = []
    on_step = in_quarters(said.append)
    for done in range(1, 101):
        on_step("target", done, 100)
    on_step("head", 1, 1)
    assert said == ["target: 1 of 100", "target: 25 of 100", "target: 50 of 100", "target: 75 of 100",
                    "target: 100 of 100", "head: 1 of 1"]  # fmt: skip
