"""The worker's end of a swap, over its socket: between two steps, or not at all."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from fake_layers import HIDDEN, VOCAB, Linear, Model, Stale, checkpoint_of, equal, weights_of  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from harness.live.controller import truncated  # noqa: E402
from harness.live.link import Link  # noqa: E402
from harness.live.server import Worker  # noqa: E402
from harness.live.swapping import CHECKPOINT_NAMES, SwapServer, checkpoint_name, folder_weights  # noqa: E402
from harness.speculator import checkpoint  # noqa: E402
from harness.speculator.checkpoint import Snapshot, fingerprint  # noqa: E402
from harness.speculator.vocabulary import DraftVocabulary  # noqa: E402

DRAFT = 6


class Head(nn.Module):
    """An EAGLE-3 head by vLLM's names."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model = nn.Module()
        self.model.fc = Linear(HIDDEN, 3 * HIDDEN)
        self.model.layers = nn.ModuleList([nn.Module()])
        self.model.layers[0].o_proj = Linear(HIDDEN, HIDDEN)
        self.lm_head = Linear(DRAFT, HIDDEN)
        self.draft_id_to_target_id = nn.Parameter(torch.zeros(DRAFT, dtype=torch.long), requires_grad=False)


def snapshot_of(head: Head, ids: list[int], **changed: torch.Tensor) -> Snapshot:
    weights = {
        "fc.weight": head.model.fc.weight.data,
        "midlayer.o_proj.weight": head.model.layers[0].o_proj.weight.data,
        "lm_head.weight": head.lm_head.weight.data,
    } | changed
    vocabulary = DraftVocabulary(torch.tensor(ids), VOCAB)
    return Snapshot("eagle3", weights, vocabulary, vocabulary.fingerprint(), fingerprint(weights))


class Engine:
    """A thread that makes steps, and saw what served in each."""

    def __init__(self, swaps: SwapServer, head: Head, seconds: float) -> None:
        self.torn = self.steps = 0
        self._stop = threading.Event()
        self._swaps, self._head, self._seconds = swaps, head, seconds
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._swaps.enter_step()
            before = weights_of(self._head)
            time.sleep(self._seconds)
            self.torn += not equal(before, weights_of(self._head))
            self.steps += 1
            self._swaps.leave_step()


class Bench:
    def __init__(self, link: Link, folder) -> None:
        self.link = link
        self.folder = folder
        self.target, self.head = Model(0), Head(0)
        self.swaps = SwapServer(link, self.target, self.head, None)
        self.worker = Worker(link, timeout=20.0)

    def save(self, snapshot: Snapshot, name: str = "new.safetensors"):
        path = self.folder / name
        checkpoint.save(snapshot, path)
        return path

    @property
    def versions(self) -> tuple[float, float]:
        return self.link.control.get("drafter_version"), self.link.control.get("verifier_version")


@pytest.fixture
def bench(tmp_path) -> Iterator[Bench]:
    link = Link.create(4096)
    yield Bench(link, tmp_path)
    link.remove()


def test_a_swap_while_the_engine_is_idle(bench):
    new = Head(1)
    answer = bench.worker.swap(bench.save(snapshot_of(new, [3, 5, 6, 7, 9, 11])), 4)
    assert answer["ok"], answer
    assert (answer["version"], bench.versions) == (4, (4, 0))
    assert 0.0 <= answer["stall"] < 1.0
    assert answer["prepare"] > 0.0
    assert answer["error_of_probe"] < 1e-3
    assert torch.equal(bench.head.lm_head.weight.data, new.lm_head.weight.data)
    assert torch.equal(bench.head.model.layers[0].o_proj.weight.data, new.model.layers[0].o_proj.weight.data)
    assert bench.head.draft_id_to_target_id.tolist() == [3, 4, 4, 4, 5, 6], "ids less their places"


def test_swaps_under_load_fall_between_steps(bench):
    paths = [bench.save(snapshot_of(Head(s), [3, 5, 6, 7, 9, 11]), f"{s}.safetensors") for s in (1, 2)]
    with Engine(bench.swaps, bench.head, 0.004) as engine:
        for version in range(1, 21):
            assert bench.worker.swap(paths[version % 2], version)["ok"]
            assert bench.versions == (version, 0)
        steps = engine.steps
        time.sleep(0.1)
        assert engine.steps > steps, "serving goes on"
    assert engine.torn == 0, "no step saw weights change"


def test_between_long_steps_of_a_busy_engine_only_its_own_thread_flips(bench, monkeypatch):
    """Two milliseconds between steps are time enough for the swap's thread to take the moment, if it tried."""
    flip, threads, over = bench.swaps._flip, [], threading.Event()
    monkeypatch.setattr(
        bench.swaps, "_flip", lambda *a: (threads.append(threading.current_thread().name), flip(*a))[1]
    )

    def serve():
        while not over.is_set():
            bench.swaps.enter_step()
            time.sleep(0.035)
            bench.swaps.leave_step()
            time.sleep(0.002)

    engine = threading.Thread(target=serve, name="engine")
    engine.start()
    path = bench.save(snapshot_of(Head(1), [3, 5, 6, 7, 9, 11]))
    for version in range(1, 11):
        assert bench.worker.swap(path, version)["ok"]
    over.set()
    engine.join(5.0)
    assert threads == ["engine"] * 10


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_beside_a_busy_engine_modules_are_prepared_one_at_a_time(bench, monkeypatch, busy: bool):
    monkeypatch.setattr("harness.live.swapping.PAUSE", 0.03)
    path = bench.save(snapshot_of(Head(1), [3, 5, 6, 7, 9, 11]))
    bench.worker.swap(path, 1)  # imports
    with Engine(bench.swaps, bench.head, 0.002) if busy else contextlib.nullcontext():
        time.sleep(0.05)
        took = bench.worker.swap(path, 2)["prepare"]
    assert took >= 3 * 0.03 if busy else took < 3 * 0.03, "three modules"


def test_a_swap_waits_for_the_end_of_a_long_step(bench):
    path = bench.save(snapshot_of(Head(1), [3, 5, 6, 7, 9, 11]))
    bench.swaps.enter_step()
    before = weights_of(bench.head)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(bench.worker.swap(path, 1)))
    asking.start()
    time.sleep(0.3)
    assert not answers
    assert equal(weights_of(bench.head), before)
    bench.swaps.leave_step()
    asking.join(5.0)
    assert answers[0]["ok"]


def test_a_step_of_two_calls_is_entered_once(bench):
    """Where the model and the sampling are two calls, or an empty step follows, the lock is taken once."""
    bench.swaps.enter_step()
    bench.swaps.enter_step()
    bench.swaps.leave_step()
    bench.swaps.leave_step()
    assert bench.worker.swap(bench.save(snapshot_of(Head(1), [3, 5, 6, 7, 9, 11])), 1)["ok"]


BROKEN = {
    "cut off": lambda b, path: truncated(path),
    "damaged": lambda b, path: _flip_byte(path),
    "not a number": lambda b, path: b.save(checkpoint.broken(checkpoint.load(path)), "nan.safetensors"),
    "of another shape": lambda b, path: b.save(
        snapshot_of(Head(1), [3, 5, 6, 7, 9, 11], **{"fc.weight": torch.zeros(2, 2)}), "shape.safetensors"
    ),
    "of another vocabulary": lambda b, path: b.save(
        snapshot_of(Head(1), [3, 5], **{"lm_head.weight": torch.zeros(DRAFT, HIDDEN)}), "v.safetensors"
    ),
    "gone": lambda b, path: path.with_name("nothing.safetensors"),
}


def _flip_byte(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 0xFF
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_swap_that_fails_leaves_what_served(bench, kind: str, busy: bool):
    good = bench.save(snapshot_of(Head(2), [3, 5, 6, 7, 9, 11]), "good.safetensors")
    assert bench.worker.swap(good, 1)["ok"]
    before = weights_of(bench.head)
    bad = BROKEN[kind](bench, bench.save(snapshot_of(Head(1), [3, 5, 6, 7, 9, 11])))
    with Engine(bench.swaps, bench.head, 0.002) if busy else contextlib.nullcontext():
        answer = bench.worker.swap(bad, 2)
    assert answer["ok"] is False
    assert answer["error"]
    assert "\n" not in answer["error"]
    assert equal(weights_of(bench.head), before)
    assert bench.versions == (1, 0)
    good = bench.save(snapshot_of(Head(3), [3, 5, 6, 7, 9, 11]))
    assert bench.worker.swap(good, 2)["ok"], "the next one may succeed"


def test_a_layer_that_does_not_follow_fails_the_swap(bench):
    bench.head.model.fc.quant_method = Stale(bench.head.model.fc)
    before = weights_of(bench.head)
    answer = bench.worker.swap(bench.save(snapshot_of(Head(1), [3, 5, 6, 7, 9, 11])), 1)
    assert not answer["ok"]
    assert "layer model.fc answers the probe off by" in answer["error"]
    assert equal(weights_of(bench.head), before)
    assert bench.versions == (0, 0)


@pytest.mark.parametrize("kv_invalid", [False, True])
def test_a_new_target(bench, kv_invalid: bool, tmp_path):
    new = checkpoint_of(Model(1))
    half = sorted(new)[: len(new) // 2]
    (tmp_path / "target").mkdir()
    save_file({n: new[n] for n in half}, str(tmp_path / "target" / "model-1.safetensors"))
    save_file({n: new[n] for n in new if n not in half}, str(tmp_path / "target" / "model-2.safetensors"))
    answer = bench.worker.swap(tmp_path / "target", 1, "verifier", kv_invalid)
    assert answer["ok"], answer
    assert equal(weights_of(bench.target), weights_of(Model(1)))
    assert bench.versions == (0, 1)
    assert bool(bench.link.control.get("kv_invalid")) == kv_invalid


def test_a_folder_without_weights_is_no_target(bench, tmp_path):
    answer = bench.worker.swap(tmp_path / "empty", 1, "verifier")
    assert not answer["ok"]
    assert "holds no weights" in answer["error"]
    with pytest.raises(FileNotFoundError):
        folder_weights(tmp_path)


def test_a_server_without_a_drafter(tmp_path):
    link = Link.create(4096)
    try:
        SwapServer(link, Model(0), None, None)
        path = tmp_path / "x.safetensors"
        checkpoint.save(snapshot_of(Head(1), [3, 5, 6, 7, 9, 11]), path)
        worker = Worker(link, timeout=10.0)
        assert "without a drafter" in worker.swap(path, 1)["error"]
        assert worker.state()["has_drafter"] is False
    finally:
        link.remove()


# --- the conversation --------------------------------------------------------------------------


def test_state(bench):
    state = bench.worker.state()
    assert state["ok"]
    assert (state["drafter_version"], state["verifier_version"], state["has_drafter"]) == (0, 0, True)
    assert (state["traces"], state["dropped"], state["tap_error"]) == (0, 0, "")


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"op": "dance"}, "op is 'dance'; it must be 'swap' or 'state'"),
        ({"op": "swap", "what": "kettle", "path": "/x", "version": 1}, "what is 'kettle'"),
        ({"op": "swap", "what": "drafter", "path": "/x"}, "version"),
        ({"op": "swap", "what": "drafter", "path": "/x", "version": "new"}, "new"),
        ([], "get"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_and_changes_nothing(bench, question, said: str):
    before = weights_of(bench.head), weights_of(bench.target)
    answer = bench.worker.ask(question)
    assert answer["ok"] is False
    assert said in answer["error"]
    assert bench.versions == (0, 0)
    assert equal(weights_of(bench.head), before[0])
    assert equal(weights_of(bench.target), before[1])


def test_a_client_that_hangs_up_is_not_the_last(bench):
    for line in (b'{"op": "state"}\n' * 2000, b"\xff\xfe\n", b"half a line"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as rude:
            rude.connect(str(bench.link.socket))
            rude.sendall(line)
    assert bench.worker.state()["ok"]


def test_a_worker_that_is_gone_is_an_answer_not_an_error():
    link = Link.create(4096)
    try:
        answer = Worker(link).state()
        assert answer["ok"] is False
        assert "no answer from the worker" in answer["error"]
        json.dumps(answer)
    finally:
        link.remove()


def test_names_of_an_eagle3_checkpoint():
    assert checkpoint_name("model.fc") == "fc"
    assert checkpoint_name("model.layers.0.self_attn.qkv_proj") == "midlayer.self_attn.qkv_proj"
    assert checkpoint_name("lm_head") == "lm_head"


def test_names_of_an_independent_drafter():
    assert CHECKPOINT_NAMES["llama"]("model.layers.0.self_attn.qkv_proj") == "layers.0.self_attn.qkv_proj"
    assert CHECKPOINT_NAMES["llama"]("lm_head") == "lm_head"


def test_a_drafter_that_no_server_holds_is_refused(bench):
    other = replace(snapshot_of(Head(1), [3, 5, 6, 7, 9, 11]), kind="medusa")
    answer = bench.worker.swap(bench.save(other), 1)
    assert not answer["ok"]
    assert "'medusa' drafter; it must be eagle3 or llama" in answer["error"]
    assert bench.versions == (0, 0)
