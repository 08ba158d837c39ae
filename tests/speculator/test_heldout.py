"""The held-out slice: who is in it, and for how long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the kernels or rl extra is not installed")

from harness.errors import InputError  # noqa: E402
from harness.speculator.heldout import FEW, FEW_FACTOR, HeldOut  # noqa: E402
from harness.speculator.traces import Trace  # noqa: E402

torch.set_num_threads(1)


def make(request: int, domain: str = "chat", tenant: str = "x", verifier: int = 0) -> Trace:
    none = torch.zeros(0, dtype=torch.int64)
    return Trace(
        tokens=torch.arange(4),
        prompt_tokens=1,
        fused=torch.zeros(4, 6),
        last=torch.zeros(4, 2),
        at=none,
        drafted=torch.zeros(0, 2, dtype=torch.int64),
        accepted=none,
        logq=torch.zeros(0, 2),
        branch=none,
        branch_last=torch.zeros(0, 2, 2),
        request_id=request,
        domain=domain,
        tenant=tenant,
        verifier_version=verifier,
    )


def heldout(capacity: int = 100, per_group: int = 100, share: float = 0.1, seed: int = 0) -> HeldOut:
    return HeldOut(share, capacity, np.random.default_rng(seed), per_group)


def ids(traces: list[Trace]) -> list[int]:
    return [trace.request_id for trace in traces]


def test_the_share_is_taken_and_the_same_again_for_the_same_generator() -> None:
    a, b, other = heldout(seed=1), heldout(seed=1), heldout(seed=2)
    for h in (a, b, other):
        for i in range(FEW):
            h.add(make(i))
    taken = [a.takes(make(i)) for i in range(2000)]
    assert 160 < sum(taken) < 240
    assert taken == [b.takes(make(i)) for i in range(2000)]
    assert taken != [other.takes(make(i)) for i in range(2000)]


def test_a_group_of_which_little_is_held_is_drawn_more_often() -> None:
    h = heldout(seed=4)
    for i in range(FEW):
        h.add(make(i, "known"))
    new = sum(h.takes(make(i, "new")) for i in range(2000))
    known = sum(h.takes(make(i, "known")) for i in range(2000))
    assert new == pytest.approx(2000 * 0.1 * FEW_FACTOR, rel=0.15)
    assert known == pytest.approx(200, rel=0.2)
    h.set_verifier(1)
    late = sum(h.takes(make(i, "known", verifier=0)) for i in range(2000))
    assert late == pytest.approx(200, rel=0.2), "the target of a trace that finished late is gone"


def test_what_makes_room_is_handed_out() -> None:
    h = heldout(capacity=3, per_group=2)
    given = [ids(h.add(make(i, domain))) for i, domain in enumerate("aaabb")]
    assert given == [[], [], [0], [], [1]]
    assert h.add(make(9, "a", verifier=2)) == []
    assert h.add(make(10, "a", verifier=1)) == []
    assert ids(h.recent(9)) == [9]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 50)])
def test_the_ends_of_the_share_are_exact(share: float, expected: int) -> None:
    h = heldout(share=share)
    assert sum(h.takes(make(i)) for i in range(50)) == expected


def test_the_newest_of_each_group_are_kept() -> None:
    h = heldout(per_group=2)
    for i in range(6):
        h.add(make(i, tenant="xy"[i % 2]))
    assert {k: ids(v) for k, v in h.groups().items()} == {("chat", "x"): [2, 4], ("chat", "y"): [3, 5]}
    assert ids(h.recent(3)) == [3, 4, 5]
    assert len(h.recent(99)) == 4


def test_the_largest_group_makes_room() -> None:
    h = heldout(capacity=4)
    h.add(make(0, "rare"))
    for i in range(1, 6):
        h.add(make(i))
    assert {k[0]: ids(v) for k, v in h.groups().items()} == {"rare": [0], "chat": [3, 4, 5]}


def test_of_equal_groups_the_one_heard_of_longest_ago_goes() -> None:
    h = heldout(capacity=2)
    for i, domain in enumerate("abc"):
        h.add(make(i, domain))
    assert [k[0] for k in h.groups()] == ["b", "c"]


def test_a_new_verifier_voids_what_an_older_one_said() -> None:
    h = heldout()
    h.add(make(0, "a"))
    h.add(make(1, "b", verifier=1))
    assert ids(h.recent(9)) == [1]
    h.add(make(2, "a", verifier=0))
    h.set_verifier(0)
    assert ids(h.recent(9)) == [1]
    h.set_verifier(2)
    assert (h.groups(), h.nbytes, len(h)) == ({}, 0, 0)


@settings(max_examples=50, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 2)), max_size=40
    ),
    capacity=st.integers(1, 12),
    per_group=st.integers(1, 6),
)
def test_the_bounds_hold(arrivals: list[tuple[str, str, int]], capacity: int, per_group: int) -> None:
    h = heldout(capacity, per_group)
    for i, (domain, tenant, verifier) in enumerate(arrivals):
        h.add(make(i, domain, tenant, verifier))
        groups = h.groups()
        assert len(h) == sum(map(len, groups.values())) <= capacity
        assert all(0 < len(group) <= per_group for group in groups.values())
        assert h.nbytes == sum(t.nbytes for group in groups.values() for t in group)
        assert len({t.verifier_version for t in h.recent(capacity)}) == 1


def test_wrong_arguments_are_refused() -> None:
    for share, capacity, per_group in ((1.1, 1, 1), (0.1, 0, 1), (0.1, 1, 0)):
        with pytest.raises(InputError, match="held-out"):
            heldout(capacity, per_group, share)
    with pytest.raises(InputError, match="n >= 1"):
        heldout().recent(0)
