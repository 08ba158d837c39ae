"""Workers that hold one model together change its weights before the same step, or none of them does."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from fake_layers import Model, Stale, equal, weights_of  # noqa: E402
from test_swapping import Head, snapshot_of  # noqa: E402

from harness.live.link import Link  # noqa: E402
from harness.live.peers import Ranks  # noqa: E402
from harness.live.server import Worker  # noqa: E402
from harness.live.swapping import SwapServer  # noqa: E402
from harness.speculator import checkpoint  # noqa: E402

SIZE = 3
IDS = [3, 5, 6, 7, 9, 11]


class Together:
    """What an all-reduce does for workers in threads."""

    def __init__(self) -> None:
        self._values: list[list[float]] = [[] for _ in range(SIZE)]
        self._barrier = threading.Barrier(SIZE)

    def worst_of(self, rank: int):
        def worst(values: list[float]) -> list[float]:
            self._values[rank] = values
            self._barrier.wait(10.0)
            found = [max(column) for column in zip(*self._values, strict=True)]
            self._barrier.wait(10.0)
            return found

        return worst


class Cluster:
    def __init__(self, folder) -> None:
        self.folder, self.link = folder, Link.create(4096)
        self.heads = [Head(0) for _ in range(SIZE)]
        together = Together()
        self.swaps = [
            SwapServer(self.link, Model(0), head, None, None, Ranks(rank, SIZE, together.worst_of(rank)))
            for rank, head in enumerate(self.heads)
        ]
        self.worker = Worker(self.link, timeout=20.0)

    def save(self, head: Head, name: str):
        path = self.folder / name
        checkpoint.save(snapshot_of(head, IDS), path)
        return path

    @property
    def serving(self) -> list[int]:
        """Of each worker, a mark of its weights."""
        return [hash(tuple(head.lm_head.weight.data.flatten().tolist())) for head in self.heads]


class Steps:
    """A scheduler that sends each step, and the swap that it carries, to all workers; those compute together."""

    def __init__(self, cluster: Cluster, seconds: float, lag: float = 0.0) -> None:
        self.served: list[list[int]] = [[] for _ in range(SIZE)]
        self._cluster, self._seconds, self._lag = cluster, seconds, lag
        self._queues = [queue.Queue(2) for _ in range(SIZE)]
        self._barrier = threading.Barrier(SIZE)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._schedule)]
        self._threads += [threading.Thread(target=self._work, args=(rank,)) for rank in range(SIZE)]

    def __enter__(self) -> Steps:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10.0)

    def _schedule(self) -> None:
        while not self._over.is_set():
            ticket = int(self._cluster.link.control.get("flip"))
            for each in self._queues:
                each.put(ticket)
        for each in self._queues:
            each.put(None)

    def _work(self, rank: int) -> None:
        swaps, head = self._cluster.swaps[rank], self._cluster.heads[rank]
        while (ticket := self._queues[rank].get()) is not None:
            time.sleep(rank * self._lag)
            swaps.enter_step(ticket)
            self.served[rank].append(hash(tuple(head.lm_head.weight.data.flatten().tolist())))
            self._barrier.wait(10.0)
            time.sleep(self._seconds)
            swaps.leave_step()


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.link.remove()


def test_an_idle_cluster_flips_together(cluster):
    answer = cluster.worker.swap(cluster.save(Head(1), "new.safetensors"), 4)
    assert answer["ok"], answer
    assert answer["error_of_probe"] < 1e-3
    assert all(equal(weights_of(head.model), weights_of(Head(1).model)) for head in cluster.heads)
    assert cluster.link.control.get("drafter_version") == 4
    assert cluster.link.control.get("flip") == 0
    assert cluster.worker.swap(cluster.save(Head(2), "newer.safetensors"), 5)["ok"], "nobody is held any more"


@pytest.mark.parametrize("lag", [0.0, 0.004], ids=["in step", "one behind the other"])
def test_under_load_all_flip_before_the_same_step(cluster, lag: float):
    paths = [cluster.save(Head(s), f"{s}.safetensors") for s in (1, 2)]
    with Steps(cluster, 0.003, lag) as steps:
        for version in range(1, 13):
            answer = cluster.worker.swap(paths[version % 2], version)
            assert answer["ok"], answer
    assert len(set(map(len, steps.served))) == 1
    assert steps.served[0] == steps.served[1] == steps.served[2], "no step saw two drafters"
    assert len(set(steps.served[0])) == 3


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_weights_that_one_worker_refuses_serve_nowhere(cluster, busy: bool, monkeypatch):
    """The last worker's layer goes on with its old weight: only its proof finds out."""
    path = cluster.save(Head(1), "new.safetensors")
    monkeypatch.setattr(cluster.heads[-1].lm_head, "quant_method", Stale(cluster.heads[-1].lm_head))
    before = cluster.serving
    if busy:
        with Steps(cluster, 0.003) as steps:
            answer = cluster.worker.swap(path, 1)
            time.sleep(0.05)
        assert {mark for served in steps.served for mark in served} == set(before)
    else:
        answer = cluster.worker.swap(path, 1)
    assert not answer["ok"]
    assert "another worker refused" in answer["error"]
    assert cluster.serving == before
    assert cluster.link.control.get("drafter_version") == 0
    assert cluster.link.control.get("flip") == 0


def test_what_another_worker_cannot_prepare_is_told_and_touches_nothing(cluster):
    cluster.heads[1].lm_head.weight.data = torch.zeros(2, 2)
    before = cluster.serving
    answer = cluster.worker.swap(cluster.save(Head(1), "new.safetensors"), 1)
    assert not answer["ok"]
    assert "worker 1: weight of 'lm_head'" in answer["error"]
    assert cluster.serving == before


def test_only_the_first_worker_is_asked_for_swaps(cluster):
    for rank, known in ((0, "'swap' or 'state'"), (1, "'prepare'")):
        asking = Worker(cluster.link)
        asking._link = type("There", (), {"socket": cluster.link.socket_of(rank)})()
        assert known in asking.ask({"op": "dance"})["error"]
