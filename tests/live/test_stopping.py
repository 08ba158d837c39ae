"""A live run that is stopped: what was measured stays, what stopped it is said, and no server is left behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("aiohttp")

from harness.errors import MissingPart
from harness.live.run import _terminable, _until_stopped
from harness.runlog import CellWriter, RunWriter, read_run

INFO = {"mode": "live", "scenario": "t", "seeds": [0, 1], "arms": {"none": {}, "bandit": {}}}


@pytest.fixture(autouse=True)
def foreground() -> Iterator[None]:
    """Interrupts count, also where these tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def gone() -> None:
    raise MissingPart("the server is gone")


def interrupted() -> None:
    signal.raise_signal(signal.SIGINT)


def terminated() -> None:
    signal.raise_signal(signal.SIGTERM)


def terminated_in_the_background() -> None:
    """Shells start what runs there with interrupts ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.raise_signal(signal.SIGTERM)


def run_until(out: Path, cells: int, stop: Callable[[], None]) -> BaseException | None:
    """A run of four cells that `stop` ends after so many of them."""

    async def work(parts: Path) -> None:
        for arm, seed in [("none", 0), ("bandit", 0), ("bandit", 1), ("none", 1)][:cells]:
            with CellWriter(parts, arm, seed):
                await asyncio.sleep(0)
        with CellWriter(parts, "unfinished", 1):
            stop()
            await asyncio.sleep(5)

    with RunWriter(out, INFO) as writer, _terminable():
        return _until_stopped(work(writer.parts), writer)


STOPS = [
    (gone, MissingPart),
    (interrupted, KeyboardInterrupt),
    (terminated, KeyboardInterrupt),
    (terminated_in_the_background, KeyboardInterrupt),
]


@pytest.mark.parametrize(("stop", "error"), STOPS)
@pytest.mark.parametrize("cells", [2, 3])
def test_the_seed_that_all_arms_have_finished_is_kept(tmp_path, cells, stop, error):
    before = signal.getsignal(signal.SIGTERM)
    assert isinstance(run_until(tmp_path / "run", cells, stop), error)
    assert read_run(tmp_path / "run").seeds == (0,)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("stop", "error"), STOPS)
def test_where_no_seed_is_whole_nothing_is_left(tmp_path, stop, error):
    with pytest.raises(error):
        run_until(tmp_path / "run", 1, stop)
    assert list(tmp_path.iterdir()) == []
