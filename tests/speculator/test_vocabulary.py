"""The draft vocabulary: maps there and back, EAGLE-3's forms, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the kernels or rl extra is not installed")

from harness.errors import InputError  # noqa: E402
from harness.speculator.vocabulary import DraftVocabulary  # noqa: E402

torch.set_num_threads(1)
SIZE = 40

subsets = st.sets(st.integers(0, SIZE - 1), min_size=1).map(sorted)


@given(subsets)
@settings(max_examples=50, deadline=None)
def test_maps_go_there_and_back(ids: list[int]) -> None:
    v = DraftVocabulary(torch.tensor(ids), SIZE)
    draft = torch.arange(len(v))
    assert v.to_target(draft).tolist() == ids
    assert torch.equal(v.index[v.to_target(draft)], draft)
    assert (v.index >= 0).nonzero()[:, 0].tolist() == ids
    assert (len(v), v.target_size, v.is_full) == (len(ids), SIZE, len(ids) == SIZE)


@given(subsets)
@settings(max_examples=50, deadline=None)
def test_d2t_and_t2d_are_those_of_eagle3(ids: list[int]) -> None:
    v = DraftVocabulary(torch.tensor(ids), SIZE)
    assert [i + int(d) for i, d in enumerate(v.d2t)] == ids
    assert v.t2d.tolist() == [t in ids for t in range(SIZE)]
    again = DraftVocabulary.from_d2t(v.d2t, len(v.t2d))
    assert torch.equal(again.ids, v.ids)
    assert torch.equal(again.index, v.index)
    assert again.fingerprint() == v.fingerprint()


def test_the_most_frequent_are_chosen_ties_to_the_lower_id() -> None:
    v = DraftVocabulary.most_frequent(torch.tensor([0, 5, 2, 9, 2, 2]), 3)
    assert v.ids.tolist() == [1, 2, 3]
    assert DraftVocabulary.most_frequent(torch.tensor([3, 1]), 9).is_full


def test_coverage_is_the_share_that_can_be_drafted() -> None:
    v = DraftVocabulary(torch.tensor([1, 3]), 4)
    assert v.coverage(torch.tensor([1, 2, 3, 4])) == pytest.approx(0.6)
    assert v.coverage(torch.zeros(4)) == 1.0
    assert DraftVocabulary.full(4).coverage(torch.tensor([1, 2, 3, 4])) == 1.0


def test_another_map_has_another_fingerprint_and_can_be_become() -> None:
    v, other = (DraftVocabulary(torch.tensor(ids), 6) for ids in ([0, 2], [1, 2]))
    before = v.fingerprint()
    assert before != other.fingerprint()
    v.become(other)
    assert v.fingerprint() == other.fingerprint()
    assert v.index.tolist() == [-1, 0, 1, -1, -1, -1]
    other.ids[0] = 0
    assert v.ids.tolist() == [1, 2], "it must be a copy"


@pytest.mark.parametrize("ids", [[], [2, 1], [1, 1], [-1, 3], [3, 6]])
def test_what_is_no_ascending_subset_is_refused(ids: list[int]) -> None:
    with pytest.raises(InputError, match=r"ascending, distinct token ids within 0\.\.5"):
        DraftVocabulary(torch.tensor(ids, dtype=torch.int64), 6)
