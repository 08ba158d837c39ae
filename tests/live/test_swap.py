"""Swaps: prepared whole, flipped at once, proven by what the layers answer, undone without a trace."""

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

from harness.errors import InputError  # noqa: E402
from harness.live.controller import truncated  # noqa: E402
from harness.live.link import Link  # noqa: E402
from harness.live.server import Worker  # noqa: E402
from harness.live.swap import Prepared, prepare  # noqa: E402
from harness.live.swapping import SwapServer, checkpoint_name, folder_weights  # noqa: E402
from harness.speculator import checkpoint  # noqa: E402
from harness.speculator.checkpoint import Snapshot, fingerprint  # noqa: E402
from harness.speculator.vocabulary import DraftVocabulary  # noqa: E402


@pytest.fixture(params=[False, True], ids=["by reference", "in place"])
def in_place(request) -> bool:
    return request.param


def prepared_for(model: Model, tensors, in_place: bool) -> Prepared:
    return replace(prepare(model, tensors), in_place=in_place)


# --- preparing and flipping --------------------------------------------------------------------


def test_new_weights_serve_and_the_old_ones_come_back(in_place):
    model, new = Model(0), Model(1)
    before, places = weights_of(model), [p.data_ptr() for p in model.parameters()]
    prepared = prepared_for(model, checkpoint_of(new), in_place)
    assert equal(weights_of(model), before), "preparing touches nothing"
    prepared.apply()
    assert equal(weights_of(model), weights_of(new))
    print_, worst = prepared.prove()
    assert len(print_) == 16
    assert worst < 1e-5
    if in_place:
        assert [p.data_ptr() for p in model.parameters()] == places, "CUDA graphs hold these addresses"
    prepared.revert()
    assert equal(weights_of(model), before)
    with pytest.raises(RuntimeError, match="off by"):
        prepared.prove()


def test_fused_layers_hold_their_parts_in_order():
    model, tensors = Model(0), checkpoint_of(Model(1))
    prepare(model, tensors).apply()
    parts = [tensors[f"layer.{p}_proj.weight"] for p in "qkv"]
    assert torch.equal(model.layer.qkv_proj.weight.data, torch.cat(parts))
    gate_up = [tensors[f"layer.{p}_proj.weight"] for p in ("gate", "up")]
    assert torch.equal(model.layer.gate_up_proj.weight.data, torch.cat(gate_up))


def test_a_vocabulary_is_padded_with_zeros():
    model, tensors = Model(0), checkpoint_of(Model(1))
    model.lm_head.weight.data[VOCAB:] = 9.0
    prepare(model, tensors).apply()
    assert torch.equal(model.lm_head.weight.data[:VOCAB], tensors["lm_head.weight"])
    assert not model.lm_head.weight.data[VOCAB:].any()


def test_modules_that_the_checkpoint_leaves_out_keep_their_weights():
    model, tensors = Model(0), checkpoint_of(Model(1))
    before = model.embed_tokens.weight.data.clone()
    del tensors["embed_tokens.weight"]
    prepare(model, tensors).apply()
    assert torch.equal(model.embed_tokens.weight.data, before)
    assert torch.equal(model.lm_head.weight.data[:VOCAB], tensors["lm_head.weight"])


def test_a_head_that_shares_the_embedding_changes_with_it(in_place):
    """A tied model: its checkpoint has no lm_head, and a packed head would keep a copy of the old one."""
    model, tensors = Model(0), checkpoint_of(Model(1))
    model.lm_head.weight = model.embed_tokens.weight
    del tensors["lm_head.weight"]
    before = model.lm_head.weight.data.clone()
    prepared = prepared_for(model, tensors, in_place)
    assert [c.name for c in prepared.changes].count("lm_head") == 1
    prepared.apply()
    prepared.prove()
    assert torch.equal(model.lm_head.weight.data[:VOCAB], tensors["embed_tokens.weight"])
    assert model.lm_head.weight is model.embed_tokens.weight, "tied for the next swap too"
    prepared.revert()
    assert torch.equal(model.lm_head.weight.data, before)
    model.lm_head.quant_method = Stale(model.lm_head)
    prepared.apply()
    with pytest.raises(RuntimeError, match="layer lm_head"):
        prepared.prove()


REFUSED = {
    "'layer.k_proj.weight' is missing beside": lambda t: t.pop("layer.k_proj.weight"),
    "has shape (8, 11); it must be (8, 12)": lambda t: t.update(
        {"layer.down_proj.weight": torch.zeros(HIDDEN, 11)}
    ),
    "of 'lm_head' has shape (25, 8)": lambda t: t.update({"lm_head.weight": torch.zeros(25, HIDDEN)}),
    "'layer.norm.weight' holds a value that is not a finite": lambda t: t["layer.norm.weight"].fill_(
        torch.nan
    ),
    "'layer.v_proj.weight' holds a value that is not a finite": lambda t: t["layer.v_proj.weight"][0].fill_(
        torch.inf
    ),
    "'other.weight' has no place": lambda t: t.update({"other.weight": torch.zeros(2)}),
    "'layer.o_proj.bias' has no place": lambda t: t.update({"layer.o_proj.bias": torch.zeros(HIDDEN)}),
    "holds no weight of the serving model": lambda t: t.clear(),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_is_touched(said: str):
    model, tensors = Model(0), checkpoint_of(Model(1))
    before = weights_of(model)
    REFUSED[said](tensors)
    with pytest.raises(InputError) as refusal:
        prepare(model, tensors)
    assert said in str(refusal.value)
    assert equal(weights_of(model), before)


@pytest.mark.parametrize("name", ["layer.qkv_proj", "layer.down_proj", "lm_head"])
def test_a_layer_that_goes_on_with_its_old_weight_is_found(name: str, in_place):
    model = Model(0)
    layer = model.get_submodule(name)
    layer.quant_method = Stale(layer)
    prepared = prepared_for(model, checkpoint_of(Model(1)), in_place)
    prepared.apply()
    with pytest.raises(RuntimeError, match=f"layer {name} answers the probe off by"):
        prepared.prove()


@pytest.mark.parametrize("name", ["layer.norm", "embed_tokens"])
def test_what_does_not_multiply_is_compared_weight_by_weight(name: str):
    model = Model(0)
    prepared = prepare(model, checkpoint_of(Model(1)))
    prepared.apply()
    module = model.get_submodule(name)
    module.weight.data = module.weight.data + 1e-3
    with pytest.raises(RuntimeError, match=f"layer {name}"):
        prepared.prove()


def test_answers_that_are_not_numbers_prove_nothing():
    model = Model(0)
    prepared = prepare(model, checkpoint_of(Model(1)))
    prepared.apply()
    model.layer.o_proj.weight.data = torch.full_like(model.layer.o_proj.weight.data, torch.nan)
    with pytest.raises(RuntimeError, match=r"layer layer.o_proj answers the probe off by nan"):
        prepared.prove()


def test_the_same_weights_have_the_same_fingerprint_and_others_another():
    prints = []
    for seed in (1, 2, 1):
        prepared = prepare(Model(0), checkpoint_of(Model(seed)))
        prepared.apply()
        prints.append(prepared.prove()[0])
    assert prints[0] == prints[2] != prints[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision(dtype):
    """The checkpoint's float32 is rounded to what serves; the probe allows for that, not for an old weight."""
    model, tensors = Model(0).to(dtype), checkpoint_of(Model(1))
    prepared = prepare(model, tensors)
    prepared.apply()
    prepared.prove()
    assert torch.equal(model.layer.o_proj.weight.data, tensors["layer.o_proj.weight"].to(dtype))


def test_an_apply_that_breaks_off_half_way_is_undone(in_place):
    model = Model(0)
    before = weights_of(model)
    prepared = prepared_for(model, checkpoint_of(Model(1)), in_place)
    last = prepared.changes[-1]

    class Broken:
        @property
        def weight(self) -> None:
            raise RuntimeError("out of memory")

    last.module = Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        prepared.apply()
    assert not equal(weights_of(model), before)
    prepared.revert()
    assert equal(weights_of(model), before)


def test_a_packed_layer_gets_a_freshly_packed_weight():
    """With vLLM's own packing, where vLLM for CPUs is installed."""
    utils = pytest.importorskip("vllm.model_executor.layers.utils")

    class Packed:
        def apply(self, layer, x, bias=None):
            return layer.cpu_linear(x, layer.weight, bias)

    model = nn.Sequential()
    model.a, model.b = Linear(64, 64), Linear(64, 64)
    tensors = {"a.weight": torch.randn(64, 64), "b.weight": torch.randn(64, 64)}
    for layer, remove in ((model.a, True), (model.b, False)):
        layer.quant_method = Packed()
        layer.output_size, layer.input_size = 64, 64
        utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=remove)
    x = torch.randn(3, 64)
    old = [layer.quant_method.apply(layer, x) for layer in (model.a, model.b)]
    prepared = prepare(model, tensors)
    prepared.apply()
    prepared.prove()
    for layer, name in ((model.a, "a.weight"), (model.b, "b.weight")):
        torch.testing.assert_close(
            layer.quant_method.apply(layer, x), x @ tensors[name].T, rtol=1e-4, atol=1e-4
        )
    prepared.revert()
    for layer, answer in zip((model.a, model.b), old, strict=True):
        torch.testing.assert_close(layer.quant_method.apply(layer, x), answer)


# --- over the socket ---------------------------------------------------------------------------

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
