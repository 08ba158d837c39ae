"""The link: the folder, and the block of small numbers that two processes share."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from harness.contract import constant_k
from harness.errors import MissingPart
from harness.live.link import CONFIG_KEY, MAX_BATCH, Control, Link

SCHEDULE = ((1, 4, 5), (5, 16, 2), (17, 64, 0))


@pytest.fixture
def link():
    found = Link.create(traces_bytes=4096)
    yield found
    found.remove()


def read(control: Control) -> np.ndarray:
    found = control.read_schedule()
    assert found is not None
    return found[1]


def test_a_schedule_is_read_as_it_was_written_by_batch_size(link):
    link.control.write_schedule(SCHEDULE)
    table = read(Link.open(link.folder).control)
    assert table.shape == (MAX_BATCH + 1,)
    assert table[1:65].tolist() == [5] * 4 + [2] * 12 + [0] * 48
    link.control.write_schedule(((1, 4, 5), (5, 9, 3)))
    table = read(Link.open(link.folder).control)
    assert (table[4], table[5], table[9]) == (5, 3, 3)
    assert (table[10:] == 3).all(), "the last range extends upwards"
    link.control.write_schedule(constant_k(4))
    assert (read(link.control)[1:] == 4).all()


def test_the_sequence_tells_a_new_schedule_from_an_old_one(link):
    other = Link.open(link.folder).control
    before = other.sequence
    assert other.sequence == before
    link.control.write_schedule(constant_k(1))
    assert other.sequence != before
    assert other.read_schedule()[0] == other.sequence


def test_a_half_written_schedule_is_not_read(link):
    link.control.write_schedule(constant_k(3))
    whole = link.control.sequence
    link.control.set("sequence", whole + 1)
    assert Link.open(link.folder).control.read_schedule() is None
    link.control.set("sequence", whole + 2)
    assert (read(link.control)[1:] == 3).all()


def write_schedules(folder: Path) -> None:
    control = Control(folder / "control")
    for n in range(3000):
        control.write_schedule(constant_k(n % 7))


def test_no_reading_mixes_two_schedules(link):
    """Another process writes one schedule after another, all of one K: each table read holds one K only."""
    link.control.write_schedule(constant_k(0))
    process = multiprocessing.get_context("spawn").Process(target=write_schedules, args=(link.folder,))
    process.start()
    seen = set()
    while process.is_alive():
        found = link.control.read_schedule()
        if found is not None:
            assert len(set(found[1][1:].tolist())) == 1
            seen.add(found[0])
    process.join()
    assert process.exitcode == 0
    assert len(seen) > 1


def test_versions_and_shares_are_seen_on_the_other_side(link):
    other = Link.open(link.folder).control
    for name, value in (("sample", 0.25), ("drafter_version", 3), ("verifier_version", 2), ("kv_invalid", 1)):
        assert other.get(name) == 0.0
        link.control.set(name, value)
        assert other.get(name) == value
    link.control.write_schedule(SCHEDULE)
    assert other.get("drafter_version") == 3


def test_the_folder_is_private_and_goes_with_the_run(link):
    assert link.folder.stat().st_mode & 0o777 == 0o700
    assert link.socket.parent == link.folder
    link.remove()
    assert not link.folder.exists()


def test_the_rings_are_those_of_the_folder(link):
    other = Link.open(link.folder)
    link.steps.put(1, b"step")
    link.traces.put(2, b"trace")
    assert list(other.steps.take()) == [(1, b"step")]
    assert list(other.traces.take()) == [(2, b"trace")]
    assert other.traces.capacity == 4096


def test_a_link_that_is_none_is_a_missing_part(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingPart, match="is no specdrift link"):
            Link.open(folder)


def test_a_configuration_names_its_link_or_none(link):
    assert Link.of_config(None) is None
    assert Link.of_config({}) is None
    assert Link.of_config({"other": 1}) is None
    assert Link.of_config({CONFIG_KEY: str(link.folder)}).folder == link.folder
    with pytest.raises(MissingPart):
        Link.of_config({CONFIG_KEY: "/nowhere"})
