"""Progress of long stages for logs: a line now and then in place of a bar."""

from __future__ import annotations

from collections.abc import Callable


def in_quarters(say: Callable[[str], object]) -> Callable[[str, int, int], None]:
    """A listener (stage, done, total) that says when a stage begins and when each further quarter of it is done."""
    said: dict[str, int] = {}

    def on_step(stage: str, done: int, total: int) -> None:
        quarter = 4 * done // total
        if quarter > said.get(stage, -1):
            said[stage] = quarter
            say(f"{stage}: {done} of {total}")

    return on_step
